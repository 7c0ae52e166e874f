"""A client that is handed its key has it alone: no process that apps come from ever holds it, and no file outlives it."""

import re
from pathlib import Path

import psutil
import pytest
from faulty_federation import Federation

from app.fleet.identity.keys import load_node_key

pytestmark = pytest.mark.federation


def holds(process: psutil.Process, key: Path) -> bool:
    """Whether the memory of a process, as root reads it, has a node key: a line of its file, or its number."""
    number = load_node_key(key)[0].private_numbers().private_value
    secrets = [key.read_bytes().splitlines()[2], number.to_bytes(48, "little"), number.to_bytes(48, "big")]
    with Path(f"/proc/{process.pid}/mem").open("rb") as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            begin, end, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()  # type: ignore[union-attr]
            if rights.startswith("rw") and "[v" not in line:
                memory.seek(int(begin, 16))
                part = memory.read(int(end, 16) - int(begin, 16))
                if any(secret in part for secret in secrets):
                    return True
    return False


def test_the_process_that_apps_come_from_never_holds_the_key(tmp_path: Path, small_store: Path) -> None:
    leases, temporary = tmp_path / "leases", tmp_path / "tmp"
    leases.mkdir()
    temporary.mkdir()
    with Federation(tmp_path, small_store, num_clients=3).taken_down() as federation:
        federation.make_identities()
        federation.superlink()
        federation.enroll()
        federation.start("keys", "pki", "hand-out", "--keys", str(tmp_path / "keys"), "--leases", str(leases))
        client = federation.start(
            "supernode-0", "supernode", "--superlink", f"localhost:{federation.fleet_port}", "--health-port", "0",
            "--ca", str(federation.public / "ca.crt"), "--key", str(leases / "keys.sock"),
            BOUQUET_LEASES=str(leases), TMPDIR=str(temporary),
        )  # fmt: skip
        federation.wait_for("superlink", "client-0 is online")
        key = tmp_path / "keys" / "0.key"
        assert holds(psutil.Process(client.pid), key), "the search finds it where it is"
        warm = federation.warm_processes("supernode-0")
        assert warm and not any(holds(process, key) for process in warm)
        assert len(list(temporary.glob("bouquet-key-*"))) == 1
        federation.stop_one("supernode-0")
        assert list(temporary.glob("bouquet-key-*")) == []
