"""A run that is told to stop leaves a checkpoint, a summary and no process, and goes on from there."""

import signal

import psutil
import pytest
from faulty_federation import Federation
from federation_processes import bouquet, until

pytestmark = pytest.mark.federation
CONFIG = "num-server-rounds=8 local-epochs=3"


def has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_run_that_was_stopped_or_drained_says_so_and_goes_on(
    federation: Federation,
) -> None:
    federation.start_all()
    process = federation.train(CONFIG)
    federation.wait_for_round(1)
    serverapp = federation.serverapp()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    until(lambda: has_ended(serverapp), 60, lambda: federation.log("superlink")[-3000:])
    assert federation.summary()["status"] == "interrupted"

    (federation.folder / "train.log").unlink()
    process = federation.train(CONFIG)
    federation.wait_for("train", "goes on after round", 60)
    drained = bouquet("drain", "--results", str(federation.folder / "results"), *federation.control)
    assert drained.returncode == 0 and "safe to stop" in drained.stdout, drained
    federation.stop_one("superlink")
    assert federation.summary()["status"] == "interrupted" and "drained" in federation.log("train")
    assert process.poll() is None, "the command waits for the server"
    federation.superlink()
    assert process.wait(240) in (0, 3), federation.log("train")[-3000:]
    assert federation.rounds() == list(range(1, 9)) and len(federation.events("run_resumed")) == 2
