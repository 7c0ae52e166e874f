"""An enrolled client that turned bad for five rounds: the run ends as if it had not been there."""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from fleet_member import Hall

from app.learning.data.prepare import Request, prepare

pytestmark = pytest.mark.federation

HOSTILE_CLIENT = Path(__file__).parents[1] / "support" / "hostile_client.py"
CONFIG = "num-server-rounds=5 fraction-evaluate=1.0 learning-rate=0.003 round-deadline=30.0"
MIB = 1024 * 1024
GROWTH = 64 * MIB  # less than the one oversized message

REASONS = {
    ("train", 1): "holds NaN or infinity",
    ("train", 2): "it holds the records metrics, packed instead of arrays, metrics",
    ("train", 3): "has shape (1,), not",
    ("train", 4): "num-examples is 1000000000000, more than",
    ("train", 5): "holds NaN or infinity",  # its reply is refused, so it is asked again, and begins anew
    ("evaluate", 1): "cannot be read",
    ("evaluate", 2): "cannot be read",
    ("evaluate", 3): "cannot be read",
    ("evaluate", 4): "cannot be read",
    ("evaluate", 5): "it holds the records none instead of metrics",
}


class Hospitals(Hall):
    """A SuperLink with two honest clients."""

    def open(self) -> None:
        super().open()
        for number, name in enumerate(("hospital-a", "hospital-b")):
            self.start(
                name, "supernode", "--superlink", f"localhost:{self.fleet_port}", "--health-port", "0",
                "--ca", str(self.pki / "ca.crt"), "--key", str(self.enroll(name).path), PARTITION_ID=str(number),
            )  # fmt: skip
            self.wait_for("superlink", f"{name} is online")

    def start_hostile(self) -> None:
        self.run(
            "mallory", sys.executable, str(HOSTILE_CLIENT), f"localhost:{self.fleet_port}",
            str(self.pki / "ca.crt"), str(self.enroll("mallory").path),
        )  # fmt: skip
        self.wait_for("superlink", "mallory is online")

    def results_of_run(self, clients: int, status: int = 0) -> dict[str, Any]:
        """Train with so many clients to the end, which must have this exit status, and return the run's summary."""
        run = self.start(
            "train", "train", "--control-address", f"127.0.0.1:{self.control_port}", "--config", CONFIG,
            "--ca", str(self.pki / "ca.crt"), NUM_CLIENTS=str(clients),
        )  # fmt: skip
        assert run.wait(400) == status, self.log("train")[-4000:] + self.log("superlink")[-4000:]
        summary: dict[str, Any] = json.loads(
            (self.folder / "results" / "latest" / "summary.json").read_text()
        )
        return summary


@pytest.fixture
def hospitals(tmp_path: Path) -> Iterator[Hospitals]:
    prepare(Request("digits", num_partitions=3), tmp_path / "store")
    with Hospitals(tmp_path, tmp_path / "store", num_clients=3).taken_down() as fleet:
        fleet.open()
        yield fleet


@contextmanager
def background(work: Any) -> Iterator[None]:
    """Repeat ``work`` in a thread."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(0.1):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def knock(port: int) -> None:
    """Random bytes on the raw port, half of them behind the first bytes of a TLS handshake."""
    for start in (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as door:
            door.sendall(start + os.urandom(64 * 1024))


def test_five_hostile_rounds_change_nothing(hospitals: Hospitals) -> None:
    without = hospitals.results_of_run(clients=2)
    assert without["failures"] == [] and without["accuracy"] > 0.7

    superlink = psutil.Process(hospitals.processes["superlink"].pid)
    before = superlink.memory_full_info().uss
    peak = [before]

    def disturb() -> None:
        knock(hospitals.fleet_port)
        peak[0] = max(peak[0], superlink.memory_full_info().uss)

    hospitals.start_hostile()
    with background(disturb):
        summary = hospitals.results_of_run(clients=3, status=3)
    disturb()

    assert summary["participation"] == "2 of 3 clients took part in every round; mallory missed 5 of 5"
    assert summary["rounds"] == 5
    assert abs(summary["accuracy"] - without["accuracy"]) <= 0.02
    assert {failure["client"] for failure in summary["failures"]} == {"mallory"}
    told = {
        (failure["phase"], failure["round"]): failure["reason"].splitlines()
        for failure in summary["failures"]
    }
    assert told.keys() == REASONS.keys(), hospitals.log("mallory")
    for turn, (reason,) in told.items():
        assert REASONS[turn] in reason, turn
    assert "train 5: oversized: StatusCode.RESOURCE_EXHAUSTED" in hospitals.log("mallory")

    for name in ("superlink", "hospital-a", "hospital-b"):
        assert hospitals.processes[name].poll() is None, f"{name} ended"
    print(
        f"accuracy {without['accuracy']:.4f} without, {summary['accuracy']:.4f} with the hostile client;"
        f" SuperLink {before / MIB:.0f} MiB before, {peak[0] / MIB:.0f} at most"
    )
    assert peak[0] - before < GROWTH
