"""Another user of this machine can neither run code in a federation on it nor take part in it."""

import importlib.util
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from federation_processes import ROOT, Fleet, bouquet_until

from app.fleet.runs.bundle import build

NOBODY = 65534
APP = ROOT / "tests" / "federation" / "apps" / "counting"
pytestmark = [
    pytest.mark.federation,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


RAY = ("raylet", "ray::", "flwr-simulation")  # their ports ask for the same token as the store of gcs_server


def _addresses(processes: list[psutil.Process]) -> list[str]:
    """Where these processes listen: ``host:port``, paths of sockets, and ``@name`` for abstract ones."""
    found, inodes = set(), set()
    for process in processes:
        with suppress(psutil.Error, OSError):  # a client's process for one message ends meanwhile
            inodes |= {str(fd.readlink()) for fd in Path(f"/proc/{process.pid}/fd").iterdir()}
            for each in process.net_connections("inet"):
                if each.status == psutil.CONN_LISTEN and not process.name().startswith(RAY):
                    kind = "gcs@" if process.name() == "gcs_server" else ""
                    found.add(f"{kind}127.0.0.1:{each.laddr.port}")
    accepting = 0x10000  # __SO_ACCEPTCON
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) == 8 and int(fields[3], 16) & accepting and f"socket:[{fields[6]}]" in inodes:
            found.add(fields[7])
    return sorted(found)


def _doors_that_open(addresses: list[str], folder: Path) -> list[str]:
    """What ``nobody`` can do there."""
    folder.mkdir()
    bundle = folder / "app.fab"
    bundle.write_bytes(build(APP))
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "other_user.py"), str(NOBODY), str(bundle), *addresses],
        capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def _attack(process: "subprocess.Popen[str]", tmp_path: Path) -> None:
    """Try all doors of a federation that one command runs; it must go on to the end of its run."""
    try:
        addresses = _addresses(psutil.Process(process.pid).children(recursive=True))
        assert any(":" in address for address in addresses), addresses
        assert _doors_that_open(addresses, tmp_path / "nobody") == []
        assert process.poll() is None
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_nobody_else_gets_into_a_federation_of_plain_processes(small_store: Path, tmp_path: Path) -> None:
    _attack(
        bouquet_until(
            "round 1/", "up", "--data", str(small_store), "--clients", "3", "--rounds", "500",
            "--results", str(tmp_path / "results"),
        ),
        tmp_path,
    )  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_nobody_else_gets_into_a_simulation(small_store: Path, tmp_path: Path) -> None:
    _attack(
        bouquet_until(
            "round 1/", "simulate", "--data", str(small_store), "--clients", "3", "--rounds", "500",
            "--results", str(tmp_path / "results"),
        ),
        tmp_path,
    )  # fmt: skip


def test_nobody_else_gets_into_servers_that_were_started_alone(fleet: Fleet, tmp_path: Path) -> None:
    """A SuperLink as in a container or a unit, and a SuperNode whose messages Flower runs: both serve HTTP."""
    fleet.superlink()
    supernode = fleet.supernode(0, BOUQUET_PATCHES="-warm")
    fleet.wait_for("supernode-0", "SuperNode ID")
    processes = [psutil.Process(process.pid) for process in fleet.processes.values()]
    addresses = _addresses(processes + [child for each in processes for child in each.children(True)])
    assert len(addresses) >= 3
    # Without TLS and keys the Fleet API serves everyone, as its operator asked with --insecure.
    addresses.remove(f"127.0.0.1:{fleet.fleet_port}")
    assert _doors_that_open(addresses, tmp_path / "nobody") == []
    assert "Refused a connection of another user" in fleet.log("superlink")
    assert "Refused a connection of another user" in fleet.log("supernode-0")
    assert supernode.poll() is None
