"""Who is enrolled: one name, one key, and a revoked key stays out.

The rules are Bouquet's, so a list of nodes stands in for the SuperLink here. That a real one keeps to them is
in tests/federation/test_identity.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto.node_pb2 import NodeInfo

from app.errors import UserError
from app.fleet.control import Connection
from app.fleet.identity import keys, members
from app.fleet.identity.members import Member

NOWHERE = Connection("127.0.0.1:1")


class Control:
    """The Control API's three calls about nodes, over a list."""

    def __init__(self) -> None:
        self.nodes: list[NodeInfo] = []

    def ListNodes(self, _request: Any) -> Any:
        return SimpleNamespace(nodes_info=self.nodes)

    def RegisterNode(self, request: Any) -> Any:
        node = NodeInfo(
            node_id=len(self.nodes) + 1, name=request.name, public_key=request.public_key, status="registered"
        )
        self.nodes.append(node)
        return SimpleNamespace(node_id=node.node_id)

    def UnregisterNode(self, request: Any) -> None:
        self.nodes[request.node_id - 1].status = members.REVOKED


@pytest.fixture
def superlink(monkeypatch: pytest.MonkeyPatch) -> Control:
    control = Control()

    @contextmanager
    def connect(_connection: Connection) -> Iterator[Control]:
        yield control

    monkeypatch.setattr(members, "control", connect)
    return control


def public_key(tmp_path: Path, name: str = "node") -> Path:
    return keys.make_node_key(tmp_path / f"{name}.key").public_path


@pytest.mark.parametrize(
    "name", ["", ".hidden", "-x", "a b", "a/b", "a\nb", "a\n", "ä", "a" * 64, "../etc", "a;b", "a\x1b[0m"]
)
def test_a_name_that_could_confuse_is_refused_before_anything_is_sent(tmp_path: Path, name: str) -> None:
    """No SuperLink listens here: the name alone decides."""
    with pytest.raises(UserError, match="is no client name: use letters, digits"):
        members.enroll(name, public_key(tmp_path), NOWHERE)


@pytest.mark.parametrize("name", ["a", "hospital-a", "site_3.example.org", "9", "A" * 63])
def test_ordinary_names_are_taken(superlink: Control, tmp_path: Path, name: str) -> None:
    assert members.enroll(name, public_key(tmp_path), NOWHERE).startswith(f"{name} enrolled (SHA256:")
    assert [node.name for node in superlink.nodes] == [name]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no key",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7Hc1mB7p0o7aT0mRZ1vJm8sS4Qb8bqkq3M0bVtDqlS",
        "\x00" * 200,
    ],
)
def test_a_file_that_holds_no_key_of_ours_is_named(superlink: Control, tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.pub"
    file.write_text(text)
    with pytest.raises(UserError, match=r"mine\.pub"):
        members.enroll("hospital-a", file, NOWHERE)
    with pytest.raises(UserError, match=r"other\.pub"):
        members.enroll("hospital-a", tmp_path / "other.pub", NOWHERE)
    assert superlink.nodes == []


def test_a_private_key_is_not_taken_for_a_public_one(superlink: Control, tmp_path: Path) -> None:
    private = keys.make_node_key(tmp_path / "node.key").path
    with pytest.raises(UserError, match=r"node\.key"):
        members.enroll("hospital-a", private, NOWHERE)
    assert superlink.nodes == []


def test_one_name_has_one_key_and_one_key_one_name(superlink: Control, tmp_path: Path) -> None:
    first, second = public_key(tmp_path, "first"), public_key(tmp_path, "second")
    members.enroll("hospital-a", first, NOWHERE)
    assert "is enrolled already" in members.enroll("hospital-a", first, NOWHERE)
    with pytest.raises(UserError, match="is already enrolled as hospital-a"):
        members.enroll("hospital-b", first, NOWHERE)
    with pytest.raises(UserError, match=r"hospital-a is enrolled with another key \(SHA256:"):
        members.enroll("hospital-a", second, NOWHERE)
    assert len(superlink.nodes) == 1


def test_a_revoked_key_stays_out_and_its_name_is_free_again(superlink: Control, tmp_path: Path) -> None:
    old, new = public_key(tmp_path, "old"), public_key(tmp_path, "new")
    members.enroll("hospital-a", old, NOWHERE)
    assert "hospital-a revoked" in members.revoke("hospital-a", NOWHERE)
    assert members.revoke("hospital-a", NOWHERE) == "hospital-a is revoked already"
    for name in ("hospital-a", "hospital-b"):
        with pytest.raises(UserError, match="was revoked as hospital-a and stays out"):
            members.enroll(name, old, NOWHERE)
    assert "enrolled" in members.enroll("hospital-a", new, NOWHERE)
    assert "hospital-a revoked" in members.revoke("hospital-a", NOWHERE)
    assert {node.status for node in superlink.nodes} == {members.REVOKED}


def test_revoking_a_stranger_says_who_there_is(superlink: Control, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nobody is enrolled as x: there are no members"):
        members.revoke("x", NOWHERE)
    members.enroll("hospital-b", public_key(tmp_path, "b"), NOWHERE)
    members.enroll("hospital-a", public_key(tmp_path, "a"), NOWHERE)
    with pytest.raises(UserError, match=r"there are hospital-a, hospital-b$"):
        members.revoke("x", NOWHERE)


def test_the_keys_of_a_host_are_enrolled_in_their_order(superlink: Control, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no public key"):
        members.enroll_directory(tmp_path, NOWHERE)
    for name in ("10", "2", "gpu-box"):
        public_key(tmp_path, name)
    members.enroll_directory(tmp_path, NOWHERE)
    assert [node.name for node in superlink.nodes] == ["client-2", "client-10", "gpu-box"]


def test_the_list_puts_revoked_members_last_and_tells_when_each_was_seen(
    superlink: Control, tmp_path: Path
) -> None:
    for name in ("a-gone", "b-online", "c-offline", "d-new"):
        members.enroll(name, public_key(tmp_path, name), NOWHERE)
    members.revoke("a-gone", NOWHERE)
    online, offline = superlink.nodes[1], superlink.nodes[2]
    noon = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
    for node, status, after in ((online, "online", 60), (offline, "offline", 0)):
        node.status, node.last_activated_at = status, noon.isoformat()
        # Flower takes a node for online until twice its heartbeat's interval after the last one.
        node.heartbeat_interval, node.online_until = 30, noon.timestamp() + after
    listed = members.members(NOWHERE)
    assert [(member.name, member.status) for member in listed] == [
        ("b-online", "online"),
        ("c-offline", "offline"),
        ("d-new", "enrolled"),
        ("a-gone", "revoked"),
    ]
    assert [member.last_seen for member in listed] == [noon, noon, None, None]
    assert members.table(listed).splitlines()[1].split()[:4] == [
        "b-online",
        "online",
        "2026-05-04",
        "12:00:00",
    ]


def test_a_bound_on_examples_is_kept_with_the_member(superlink: Control, tmp_path: Path) -> None:
    key = public_key(tmp_path)
    assert "at most 5000 examples" in members.enroll("hospital-a", key, NOWHERE, max_examples=5000)
    for same in (None, 5000):
        assert "is enrolled already" in members.enroll("hospital-a", key, NOWHERE, max_examples=same)
    with pytest.raises(UserError, match="hospital-a is enrolled with max-examples=5000: to change that"):
        members.enroll("hospital-a", key, NOWHERE, max_examples=50)
    members.enroll("hospital-b", public_key(tmp_path, "b"), NOWHERE)
    listed = members.members(NOWHERE)
    assert [(member.name, member.max_examples) for member in listed] == [
        ("hospital-a", 5000),
        ("hospital-b", None),
    ]
    assert "hospital-a revoked" in members.revoke("hospital-a", NOWHERE)


@pytest.mark.parametrize(
    "kept", ["", "a", "a max-examples=", "a max-examples=٣", "a max-examples=-1", "a max-examples=1_0"]
)
def test_a_bound_that_is_no_number_is_none(kept: str) -> None:
    assert members.name_and_bound(kept) == (kept[:1], None)


def test_the_table_has_a_line_for_each_member_and_lines_up() -> None:
    listed = [Member(name, "SHA256:abc", 7, "enrolled", None, b"") for name in ("a", "a-much-longer-name")]
    lines = members.table(listed).splitlines()
    assert lines[0].split() == ["NAME", "STATUS", "LAST", "SEEN", "MAX", "EXAMPLES", "NODE", "FINGERPRINT"]
    assert len({line.index("SHA256:") for line in lines[1:]}) == 1
    assert members.table([]).startswith("NAME")


def test_people_are_shown_a_name_without_its_bound() -> None:
    assert members.shown_name(NodeInfo(node_id=7, name=members.with_bound("ward-3", 5000))) == "ward-3"
    assert members.shown_name(NodeInfo(node_id=7)) == "node 7"
