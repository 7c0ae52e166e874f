"""A client whose app hangs is free for the next run when its run is over, however it ended."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from faulty_federation import Federation
from federation_processes import ROOT, Fleet, until
from tiny_apps import SERVER, make_app

BROKEN = ROOT / "tests" / "federation" / "apps" / "broken"
WAYS: tuple[dict[str, str], ...] = ({}, {"BOUQUET_WORKER": "persistent"}, {"BOUQUET_PATCHES": "-warm"})
HANGS_ONCE = """
    import time

    app = ClientApp()

    @app.train()
    def train(message, context):
        if message.content["config"]["number"] == 0:
            time.sleep(3600)
        return Message(RecordDict(), reply_to=message)
"""
pytestmark = pytest.mark.federation


@pytest.fixture(params=["plaintext", "TLS"])
def ways(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """A federation whose clients run their messages in each of the ways there are."""
    kind = Federation if request.param == "TLS" else Fleet
    with kind(tmp_path, tmp_path, num_clients=len(WAYS)).taken_down() as started:
        if isinstance(started, Federation):
            started.make_identities()
        started.superlink()
        if isinstance(started, Federation):
            started.enroll()
        for number, way in enumerate(WAYS):
            started.supernode(number, **way)
        for number in range(len(WAYS)):
            started.wait_for(f"supernode-{number}", "SuperNode ID")
        yield started


def test_clients_that_hang_are_free_for_the_next_run(ways: Fleet) -> None:
    """With TLS the first run is stopped, and without it ends by itself: its app waits no longer for the clients."""
    stopped = isinstance(ways, Federation)
    leave = ways.folder / "leave"
    train = ways.train(f"fault='all-hang' leave-when='{leave}'", BROKEN)
    for number in range(len(WAYS)):
        ways.wait_for(f"supernode-{number}", "hangs as process")
    logs = [ways.log(f"supernode-{number}") for number in range(len(WAYS))]
    hanging = [psutil.Process(int(re.findall(r"hangs as process (\d+)\.", log)[0])) for log in logs]
    if stopped:
        train.send_signal(signal.SIGTERM)
    else:
        leave.touch()
    assert train.wait(60) == (130 if stopped else 0), ways.log("train")

    status, log = ways.train_to_the_end("rounds=1", BROKEN, 90)
    assert status == 0, log + ways.log("supernode-0")[-3000:]
    assert f"round 0: {len(WAYS)} replies" in log
    until(lambda: not any(map(_runs, hanging)), 60, lambda: f"still there: {hanging}")


def _runs(process: psutil.Process) -> bool:
    """Whether it works on; one that has ended and waits for its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("ways", ["plaintext"], indirect=True)
def test_a_client_that_hangs_is_free_for_the_next_message_when_its_message_is_too_old(
    ways: Fleet, tmp_path: Path
) -> None:
    """Its process goes on beating, so that only the message's time to live can end it."""
    server = SERVER.replace('"train")', '"train", ttl=3600 if number else 12)').replace(
        "range(", "range(1 + "
    )
    app = make_app(tmp_path / "apps", "hanging", HANGS_ONCE, server, timeout=60)
    status, log = ways.train_to_the_end("", app, 150)
    assert status == 3 and "round 0: 0 replies" in log, log + ways.log("supernode-0")[-3000:]
    assert f"round 1: {len(WAYS)} replies" in log, log
    assert "took longer than its message's time to live of 12 s" in ways.log("supernode-0")
