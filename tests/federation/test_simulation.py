"""``bouquet simulate``: the same ServerApp and ClientApp under Flower's Simulation Engine, and nothing stays behind."""

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from federation_processes import ROOT, bouquet, bouquet_until, leftovers

from app.environment import Device
from app.errors import UserError
from app.fleet.host.ports import free_port
from app.fleet.local.simulate import Resources, resources, visible_gpus

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
pytestmark = pytest.mark.federation

LEARNING = "local-epochs=6 fraction-evaluate=1.0"


@pytest.fixture(autouse=True)
def _nothing_stays_behind(tmp_path: Path) -> Iterator[None]:
    yield
    deadline = time.monotonic() + 20
    while (left := leftovers(str(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def _arguments(command: str, store: Path, results: Path, config: str) -> list[str]:
    return [
        command, "--data", str(store), "--clients", "3", "--rounds", "2", "--results", str(results), "--config", config,
    ]  # fmt: skip


def _summary(results: Path) -> Any:
    return json.loads((results / "latest" / "summary.json").read_text())


@needs_ray
def test_simulation_and_deployment_reach_the_same_accuracy_in_every_round(
    small_store: Path, tmp_path: Path
) -> None:
    for command in ("up", "simulate"):
        done = bouquet(
            *_arguments(command, small_store, tmp_path / command, LEARNING),
            environment={"OMP_NUM_THREADS": "1"},
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "round 2/2" in done.stdout and "Traceback" not in done.stdout + done.stderr
    deployed, simulated = _summary(tmp_path / "up"), _summary(tmp_path / "simulate")
    assert (simulated["mode"], simulated["num_clients"], simulated["rounds"]) == ("simulation", 3, 2)
    assert simulated["failures"] == []
    assert simulated["accuracy_per_round"] == pytest.approx(deployed["accuracy_per_round"], abs=0.005)
    assert deployed["accuracy"] > 0.2, "and it is not the accuracy of a model that learned nothing"
    with (tmp_path / "simulate" / "latest" / "history.csv").open() as file:
        trained = [row for row in csv.DictReader(file) if row["phase"] == "train"]
    assert [(row["round"], row["partition_id"]) for row in trained] == [(r, p) for r in "12" for p in "012"]


@needs_ray
def test_wrong_input_that_the_server_finds_ends_with_status_2(small_store: Path, tmp_path: Path) -> None:
    config = "weights='/nowhere/model.safetensors'"
    done = bouquet(*_arguments("simulate", small_store, tmp_path / "results", config))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: weights: cannot read /nowhere/model.safetensors" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@needs_ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_end_before_time_leaves_no_process_behind(
    number: signal.Signals, small_store: Path, tmp_path: Path
) -> None:
    arguments = _arguments("simulate", small_store, tmp_path / "results", "num-server-rounds=500")
    process = bouquet_until("round 1/", *arguments)
    try:
        started = psutil.Process(process.pid).children(recursive=True)
        assert any("ray::" in " ".join(p.cmdline()) for p in started)
        private = next(home for p in started if (home := p.environ().get("RAY_TMPDIR")))
        process.send_signal(number)
        assert process.wait(60) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    finally:
        process.kill()
    if number == signal.SIGINT:
        assert not Path(private).exists()
    shutil.rmtree(private, ignore_errors=True)  # a killed process cannot
    # What stays would hold the results' path in its environment: the fixture looks for it.


@needs_ray
def test_flwr_run_by_hand_does_the_same(small_store: Path, tmp_path: Path) -> None:
    # Not below tmp_path, which is too long a path for Ray's sockets.
    home, port = Path(tempfile.mkdtemp(prefix="bouquet-", dir="/tmp")), str(free_port())
    (home / "config.toml").write_text(
        '[superlink.simulation]\naddress = ":local-in-memory:"\noptions.num-supernodes = 3\n'
        "options.backend.client-resources.num-cpus = 1\n"
        "options.backend.client-resources.num-gpus = 0.0\n"
    )
    flwr = Path(sys.executable).with_name("flwr")
    environment = {
        **os.environ,
        "PATH": f"{flwr.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": port,
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "BOUQUET_DATA": str(small_store),
        "BOUQUET_RESULTS": str(tmp_path / "results"),
    }
    config = "num-server-rounds=1 min-available-nodes=3 min-train-nodes=3 min-evaluate-nodes=1"
    try:
        done = subprocess.run(
            [flwr, "run", ".", "simulation", "--stream", "--run-config", config],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "results in" in done.stdout
        assert _summary(tmp_path / "results")["rounds"] == 1
    finally:
        # Flower leaves its local SuperLink running for the next run.
        for process in psutil.process_iter():
            try:
                if port in process.cmdline() and "--simulation" in process.cmdline():
                    process.terminate()
                    process.wait(20)
            except psutil.Error:
                continue
        shutil.rmtree(home, ignore_errors=True)


def test_without_ray_one_line_says_what_to_install(small_store: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['ray'] = None; from app.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *_arguments("simulate", small_store, tmp_path / "results", LEARNING)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(
        "error: the simulation needs Ray, which is not installed: pip install 'bouquet[simulation]'"
    )
    assert not (tmp_path / "results").exists()


def test_clients_share_cores_and_gpus_evenly() -> None:
    assert resources(10, 2, 0) == Resources(cores=2, gpus=0, gpus_per_client=0)
    for clients, cores, gpus in (
        (10, 16, 1),
        (10, 64, 4),
        (3, 16, 8),
        (49, 64, 1),
        (7, 7, 3),
        (4, 4, 3),
        (10, 16, 4),
    ):
        given = resources(clients, cores, gpus)
        at_once = min(clients, cores)
        assert given.cores == at_once
        assert 0 < given.gpus_per_client <= 1
        # Ray puts a share on one GPU, so this many find room; Flower's pool must not hold more, which would wait for ever.
        room = gpus * (10_000 // round(given.gpus_per_client * 10_000))
        assert room >= at_once
        as_flower_gets_it = float(np.float32(given.gpus_per_client))
        assert min(at_once, room) == min(at_once, int(gpus / as_flower_gets_it))


def test_one_certain_gpu_cannot_be_asked_for() -> None:
    assert visible_gpus(Device("cpu")) == 0
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=1 "):
        visible_gpus(Device("cuda", 1))


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for count in (0, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert visible_gpus(Device()) == count
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="BOUQUET_DEVICE=cuda: 0 GPUs are visible"):
        visible_gpus(Device("cuda"))
