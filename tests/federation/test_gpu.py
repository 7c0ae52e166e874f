"""Clients on a machine with a GPU. There is none here: a preloaded library tells PyTorch that there is one, which is
enough to start what CUDA starts, and the app trains on the CPU."""

import subprocess
from pathlib import Path

import psutil
import pytest
from container_engine import cannot_run
from federation_processes import Fleet

pytestmark = pytest.mark.federation

COUNTING = Path(__file__).parent / "apps" / "counting"


@pytest.fixture(scope="module")
def fake_gpu(tmp_path_factory: pytest.TempPathFactory) -> str:
    library = tmp_path_factory.mktemp("gpu") / "fake_gpu.so"
    source = Path(__file__).with_name("fake_gpu.c")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, capture_output=True)
    except OSError:
        cannot_run("there is no C compiler for the library that stands in for a GPU")
    return str(library)


def test_a_client_on_a_gpu_trains_in_one_worker(fleet: Fleet, fake_gpu: str) -> None:
    fleet.superlink()
    fleet.supernode(0, LD_PRELOAD=fake_gpu, CUDA_VISIBLE_DEVICES="0")
    fleet.train("learn=true", COUNTING).wait(180)
    found = fleet.replies()
    # A backward pass before the worker was forked would fail each of them.
    assert [reply.get("error") for reply in found] == [None] * 3, fleet.log("supernode-0")[-2000:]
    assert len({reply["pid"] for reply in found}) == 1
    assert [reply["handled"] for reply in found] == [1, 2, 3]
    assert {reply["gpus"] for reply in found} == {1}


def test_a_failed_message_takes_its_worker_with_it(fleet: Fleet, fake_gpu: str) -> None:
    fleet.superlink()
    fleet.supernode(0, LD_PRELOAD=fake_gpu, CUDA_VISIBLE_DEVICES="0")
    fleet.train("messages=4 learn=true fail-at=1", COUNTING).wait(180)
    first, failed, *rest = fleet.replies()
    assert "as it was asked to" in failed["error"]
    assert [reply["handled"] for reply in (first, *rest)] == [1, 1, 2]
    assert not psutil.pid_exists(first["pid"]) and psutil.pid_exists(rest[-1]["pid"])


@pytest.mark.parametrize("settings", [{"BOUQUET_DEVICE": "cpu"}, {"CUDA_VISIBLE_DEVICES": ""}])
def test_a_client_that_is_not_to_use_the_gpu_does_not_see_it(
    settings: dict[str, str], fleet: Fleet, fake_gpu: str
) -> None:
    fleet.superlink()
    fleet.supernode(0, **{"LD_PRELOAD": fake_gpu, "CUDA_VISIBLE_DEVICES": "0", **settings})
    fleet.train("learn=true", COUNTING).wait(180)
    found = fleet.replies()
    assert [reply.get("error") for reply in found] == [None] * 3
    assert len({reply["pid"] for reply in found}) == 3 and {reply["gpus"] for reply in found} == {0}
