"""Clients that are killed, stopped or never come: the run says who took part, and its status is not that of a success."""

import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from federation_processes import Fleet, bouquet

pytestmark = pytest.mark.federation


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A SuperLink and ten clients with few pictures each."""
    from container_engine import ROOT

    from app.learning.data.prepare import Request, prepare

    folder = tmp_path_factory.mktemp("partial")
    prepare(Request(str(ROOT / "tests" / "data" / "cifar10"), num_partitions=10), folder / "store")
    fleet = Fleet(folder, folder / "store", num_clients=10)
    try:
        fleet.superlink()
        for number in range(10):
            fleet.supernode(number, BOUQUET_LEASES=str(folder / "leases"), BOUQUET_LOCAL_CLIENTS="10")
        yield fleet
    finally:
        for process in fleet.processes.values():
            process.send_signal(signal.SIGCONT)
        fleet.stop()


def summary(fleet: Fleet) -> Any:
    return json.loads((fleet.folder / "results" / "latest" / "summary.json").read_text())


def train(fleet: Fleet, config: str) -> Any:
    return bouquet(
        "train", "--clients", "10", "--control-address", f"127.0.0.1:{fleet.control_port}", "--config", config,
        environment={"FLWR_HOME": str(fleet.folder / "by-hand")},
    )  # fmt: skip


def test_every_client_evaluates_a_model(ten: Fleet) -> None:
    done = train(ten, "num-server-rounds=1 fraction-evaluate=0.0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished: 10 of 10 clients took part in every round" in done.stdout.splitlines()[-1]
    model = ten.folder / "results" / "latest" / "model.safetensors"
    arguments = ["evaluate", "--model", str(model), "--clients", "10"]
    arguments += ["--control-address", f"127.0.0.1:{ten.control_port}"]
    home = {"FLWR_HOME": str(ten.folder / "by-hand")}
    done = bouquet(*arguments, environment=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [f"partition {number} " in done.stdout for number in range(10)] == [True] * 10, done.stdout
    assert "server's test split" in done.stdout and "exit status" not in done.stdout
    done = bouquet(*arguments, "--json", environment=home)
    found = json.loads(done.stdout)
    assert [client["partition_id"] for client in found["clients"]] == list(range(10))
    assert all(client["num_examples"] > 0 and client["loss"] > 0 for client in found["clients"])
    assert found["server"]["accuracy"] == summary(ten)["accuracy"], (
        "the latest run is still the one that trained"
    )
    assert (
        bouquet("evaluate", "--model", "nothing.safetensors", *arguments[3:], environment=home).returncode
        == 2
    )


def test_a_stopped_client_is_late_by_name_and_comes_back(ten: Fleet) -> None:
    """SIGSTOP for longer than the grace of a phase, in a run whose other clients go on."""
    process = ten.train(
        "num-server-rounds=8 fraction-evaluate=0.0 min-train-nodes=10 min-available-nodes=10 "
        "min-replies=0.6 grace=3.0"
    )
    ten.wait_for("train", "round 1/8")
    ten.processes["supernode-3"].send_signal(signal.SIGSTOP)
    for child in ten.warm_processes("supernode-3"):
        child.suspend()
    ten.wait_for("train", "goes on without partition 3")
    ten.processes["supernode-3"].send_signal(signal.SIGCONT)
    for child in ten.warm_processes("supernode-3"):
        child.resume()
    assert process.wait(180) == 3, ten.log("train")
    told = summary(ten)
    missed = told["rounds_missed"]["partition 3"]
    assert 0 < missed < 8 and told["status"] == "subset"
    assert (
        told["participation"] == f"9 of 10 clients took part in every round; partition 3 missed {missed} of 8"
    )
    assert told["participation"] in ten.log("train").splitlines()[-1]
    assert next(iter(told)) == "participation"
    late = {failure["round"] for failure in told["failures"] if failure["client"] == "partition 3"}
    assert len(late) == missed, "named in each round that it missed"


def test_three_of_ten_are_gone_for_good(ten: Fleet) -> None:
    process = ten.train(
        "num-server-rounds=6 fraction-evaluate=0.0 min-train-nodes=10 min-available-nodes=10 min-replies=0.6 grace=5.0"
    )
    time.sleep(1)
    ten.wait_for("train", "10 clients connected")
    for number in (7, 8, 9):
        for child in ten.descendants(f"supernode-{number}"):
            child.kill()
        ten.processes[f"supernode-{number}"].kill()
    assert process.wait(240) == 3, ten.log("train")
    told = summary(ten)
    assert told["rounds"] == 6 and told["status"] == "subset"
    assert told["participation"].startswith("7 of 10 clients took part in every round")
    # Nobody begins without enough of them.
    done = train(ten, "num-server-rounds=1 min-replies=0.9 wait-for-clients=3.0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "of 10 clients are connected after 3 s (wait-for-clients)" in done.stdout
    assert "Traceback" not in done.stdout
