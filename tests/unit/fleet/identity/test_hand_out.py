"""Each client of a host gets the key of the partition whose lease it holds, and no other."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import UserError
from app.fleet.host.partition_ids import lease
from app.fleet.identity import hand_out
from app.fleet.identity.keys import load_node_key, make_node_key


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A folder with two keys and the leases, where a process hands the keys out."""
    for partition in range(2):
        make_node_key(tmp_path / "keys" / f"{partition}.key")
    (tmp_path / "leases").mkdir()
    command = [sys.executable, "-m", "app.cli", "pki", "hand-out"]
    process = subprocess.Popen([*command, "--keys", tmp_path / "keys", "--leases", tmp_path / "leases"])
    try:
        yield tmp_path
    finally:
        process.kill()
        process.wait()


def test_each_client_gets_the_key_of_its_lease(host: Path) -> None:
    leases = [lease(host / "leases", 2) for _ in range(2)]
    for partition, (number, held) in enumerate(leases):
        key = hand_out.fetch(host / "leases" / "keys.sock", number, held)
        assert partition == number
        assert key.read_bytes() == (host / "keys" / f"{number}.key").read_bytes()
        assert load_node_key(key) and key.parent.stat().st_mode & 0o777 == 0o700
    assert (host / "leases" / "keys.sock").stat().st_mode & 0o777 == 0o600


def test_whoever_does_not_hold_the_lease_gets_nothing(host: Path) -> None:
    _, own = lease(host / "leases", 2)
    _, other = lease(host / "leases", 2)
    address = host / "leases" / "keys.sock"
    with pytest.raises(UserError, match="does not hold the lease"):
        hand_out.fetch(address, 1, own)
    with (host / "leases" / "1.lock").open() as unlocked, pytest.raises(UserError, match="does not hold"):
        hand_out.fetch(address, 1, unlocked)
    with (
        pytest.raises(UserError, match=r"2\.key does not exist"),
        (host / "leases" / "2.lock").open("a+") as free,
    ):
        hand_out.fetch(address, 2, free)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(address))
        assert hand_out.fetch(address, 1, other), "one that says nothing keeps nobody from being served"
    for request in (b"1", b"../keys/1", b"", b"\xff"):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(address))
            stranger.sendall(request or b" ")
            assert b"".join(iter(lambda: stranger.recv(4096), b"")).startswith(hand_out.REFUSED)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand_out, "START_S", 0.0)
    with pytest.raises(UserError, match="set BOUQUET_LEASES"):
        hand_out.fetch(tmp_path / "keys.sock", 0, None)
    number, held = lease(tmp_path, 1)
    with pytest.raises(UserError, match="nobody hands out keys there"):
        hand_out.fetch(tmp_path / "keys.sock", number, held)
