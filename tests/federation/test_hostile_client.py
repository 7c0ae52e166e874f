"""An enrolled client that turned bad for five rounds: the run ends as if it had not been there."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from federation_processes import Fleet, leftovers

from app.fleet import certificates, keys, members
from app.learning.prepare import prepare

pytestmark = pytest.mark.federation

HOSTILE_CLIENT = Path(__file__).with_name("hostile_client.py")
CONFIG = "num-server-rounds=5 fraction-evaluate=1.0 learning-rate=0.003 round-timeout=30.0"
MIB = 1024 * 1024
GROWTH = 64 * MIB  # less than the one oversized message

REASONS = {
    ("train", 1): "holds NaN or infinity",
    ("train", 2): "it holds the records metrics, packed instead of arrays, metrics",
    ("train", 3): "has shape (1,), not",
    ("train", 4): "num-examples is 1000000000000, more than",
    ("train", 5): "no reply within 30 s",
    ("evaluate", 1): "cannot be read",
    ("evaluate", 2): "cannot be read",
    ("evaluate", 3): "cannot be read",
    ("evaluate", 4): "cannot be read",
    ("evaluate", 5): "it holds the records none instead of metrics",
}


class Hospitals(Fleet):
    """A SuperLink with TLS and node authentication, and two honest clients."""

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def connection(self) -> members.Connection:
        return members.Connection(f"127.0.0.1:{self.control_port}", self.pki / "ca.crt")

    def open(self) -> None:
        certificates.init_ca(self.pki)
        certificates.issue_server(self.pki)
        self.start(
            "superlink", "superlink", "--certificates", str(self.pki), "--state", str(self.folder / "state"),
            "--fleet-address", f"127.0.0.1:{self.fleet_port}", "--control-port", str(self.control_port),
        )  # fmt: skip
        self.wait_for("superlink", "Uvicorn running")
        self.wait_for("superlink", "Fleet API (gRPC-rere)")
        for number, name in enumerate(("hospital-a", "hospital-b")):
            self.start(
                name, "supernode", "--superlink", f"localhost:{self.fleet_port}", "--health-port", "0",
                "--ca", str(self.pki / "ca.crt"), "--key", str(self.enroll(name)), PARTITION_ID=str(number),
            )  # fmt: skip
            self.wait_for("superlink", f"{name} is online")

    def enroll(self, name: str) -> Path:
        key = keys.make_node_key(self.folder / f"{name}.key")
        members.enroll(name, key.public_path, self.connection)
        return key.path

    def start_hostile(self) -> None:
        self.run(
            "mallory", sys.executable, str(HOSTILE_CLIENT), f"localhost:{self.fleet_port}",
            str(self.pki / "ca.crt"), str(self.enroll("mallory")),
        )  # fmt: skip
        self.wait_for("superlink", "mallory is online")

    def results_of_run(self, clients: int) -> dict[str, Any]:
        """Train with so many clients to the end, and return the run's summary."""
        run = self.start(
            "train", "train", "--control-address", f"127.0.0.1:{self.control_port}", "--config", CONFIG,
            "--ca", str(self.pki / "ca.crt"), NUM_CLIENTS=str(clients),
        )  # fmt: skip
        assert run.wait(400) == 0, self.log("train")[-4000:] + self.log("superlink")[-4000:]
        summary: dict[str, Any] = json.loads(
            (self.folder / "results" / "latest" / "summary.json").read_text()
        )
        return summary


@pytest.fixture
def hospitals(tmp_path: Path) -> Iterator[Hospitals]:
    prepare("digits", tmp_path / "store", num_partitions=3)
    fleet = Hospitals(tmp_path, tmp_path / "store", num_clients=3)
    try:
        fleet.open()
        yield fleet
    finally:
        fleet.stop()
        deadline = time.monotonic() + 10  # what was killed takes a moment to be gone
        while (left := leftovers(str(tmp_path))) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, "a process stayed behind"


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
        summary = hospitals.results_of_run(clients=3)
    disturb()

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
