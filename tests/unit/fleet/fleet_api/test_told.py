"""What members tell of themselves is bounded, printable, and theirs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import UserError
from app.fleet.fleet_api import told
from app.fleet.fleet_api.context import Details, Refused
from app.fleet.fleet_api.told import Told, log_file, names_with_logs
from app.fleet.identity import keys


def member(tmp_path: Path, name: str = "site-1") -> tuple[Any, Details]:
    """A node of the SuperLink, and a call that it has signed."""
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

    keys.make_node_key(tmp_path / f"{name}.key")
    private, public = keys.load_node_key(tmp_path / f"{name}.key")
    pem, moment = public_key_to_bytes(public), "2026-11-30T12:00:00+00:00"
    metadata = {
        "flwr-public-key-bin": pem,
        "flwr-signature-bin": sign_message(private, moment.encode("ascii")),
        "flwr-timestamp": moment,
    }
    node = SimpleNamespace(public_key=pem, status="online", name=name, node_id=1)
    return node, Details(told.METHOD, tuple(metadata.items()), "ipv4:127.0.0.1:1")


def letter(*lines: str, **more: Any) -> bytes:
    return json.dumps({"lines": lines, **more}).encode()


def test_a_members_lines_are_kept_under_its_name_with_the_servers_time(tmp_path: Path) -> None:
    node, call = member(tmp_path)
    desk = Told(lambda: [node], tmp_path, authenticated=True)
    assert json.loads(desk.admit(call)(letter("one", "two\x1b[31m\rforged", left_out=3))) == {"taken": 2}
    lines = log_file(tmp_path, "site-1").read_text().splitlines()
    assert [line[20:] for line in lines] == ["(3 lines were left out)", "one", "two\\x1b[31m\\rforged"]
    assert names_with_logs(tmp_path) == ["site-1"]


def test_strangers_revoked_members_and_forgers_are_refused(tmp_path: Path) -> None:
    node, call = member(tmp_path)
    revoked = SimpleNamespace(**{**vars(node), "status": "unregistered"})
    for members in (list[Any], lambda: [revoked]):
        with pytest.raises(Refused):
            Told(members, tmp_path, authenticated=True).admit(call)
    forged = tuple((k, v if k != "flwr-timestamp" else "2027-01-01") for k, v in call.invocation_metadata)
    with pytest.raises(Refused):
        Told(lambda: [node], tmp_path, authenticated=True).admit(Details(told.METHOD, forged, ""))
    with pytest.raises(Refused):
        Told(lambda: [node], tmp_path, authenticated=False).admit(call)
    assert not (tmp_path / told.LOGS).exists()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff", b"[]", b'{"lines": 1}', letter(*["x"] * (told.MOST_LINES + 1)),
        letter(left_out=-1), letter(usage={"memory_bytes": -1}), letter(usage={"memory_bytes": 1e300}),
    ],
)  # fmt: skip
def test_a_letter_that_is_none_is_refused(tmp_path: Path, body: bytes) -> None:
    node, call = member(tmp_path)
    with pytest.raises(Refused):
        Told(lambda: [node], tmp_path, authenticated=True).admit(call)(body)


def test_a_member_fills_neither_the_disk_nor_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "LARGEST_FILE", 5000)
    node, call = member(tmp_path)
    desk = Told(lambda: [node], tmp_path, authenticated=True)
    for _ in range(told.MOST_LETTERS):
        desk.admit(call)(letter(*["x" * 900] * 3))
    with pytest.raises(Refused):
        desk.admit(call)
    kept = list((tmp_path / told.LOGS).iterdir())
    assert sorted(file.name for file in kept) == ["site-1.log", "site-1.log.1"]
    assert sum(file.stat().st_size for file in kept) < 2 * (5000 + 3 * 1000)


def test_logs_leave_room_for_what_the_superlink_must_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "LEAST_FREE", 1 << 60)
    node, call = member(tmp_path)
    assert Told(lambda: [node], tmp_path, authenticated=True).admit(call)(letter("one")) == b'{"taken": 1}'
    assert names_with_logs(tmp_path) == []


def test_what_a_member_uses_is_kept_for_whoever_measures(tmp_path: Path) -> None:
    node, call = member(tmp_path, "site-7")
    desk = Told(lambda: [node], None, authenticated=True)
    desk.admit(call)(letter(usage={"memory_bytes": 5, "messages": 2, "apps_loaded": 1, "new": 3}))
    try:
        assert told.latest["site-7"][1].model_dump() == {"memory_bytes": 5, "messages": 2, "apps_loaded": 1}
    finally:
        told.latest.clear()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 100, "a\n"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no client's name"):
        log_file(tmp_path, name)
