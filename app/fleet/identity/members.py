"""The members of a federation: enrolled, online and revoked clients.

The SuperLink's own state is the only record. It keeps each key with its name.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.environment import is_whole
from app.errors import UserError
from app.fleet.control import Connection, control
from app.fleet.identity.keys import fingerprint, load_public_key

if TYPE_CHECKING:
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.control import ControlHttpClient

REVOKED = "unregistered"  # Flower's word in NodeInfo.status
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Flower keeps a text for each node and nothing else of ours, so the bound on a member's examples stands behind its name.
_BOUND = " max-examples="


@dataclass(frozen=True)
class Member:
    """One enrolled key."""

    name: str
    fingerprint: str
    node_id: int
    status: str  # "enrolled" (never seen), "online", "offline" or "revoked"
    last_seen: datetime | None
    public_key: bytes  # PEM
    max_examples: int | None = None  # a reply that claims more is left out; None: no bound of its own


def with_bound(name: str, max_examples: int | None) -> str:
    """The text that the SuperLink keeps for a member."""
    return name if max_examples is None else f"{name}{_BOUND}{max_examples}"


def name_and_bound(kept: str) -> tuple[str, int | None]:
    """A member's name and its bound, from the text that the SuperLink keeps."""
    name, _, bound = kept.partition(_BOUND)
    return name, int(bound) if re.fullmatch("[0-9]{1,19}", bound) else None


def shown_name(node: "NodeInfo") -> str:
    """What people call a node of the SuperLink: the name of its member, without the bound."""
    return name_and_bound(node.name)[0] or f"node {node.node_id}"


def enroll(name: str, public_key: Path, connection: Connection, *, max_examples: int | None = None) -> str:
    """Register a client's public key under `name`. Returns a line for the person.

    `max_examples`: what the client may claim to have trained on; None for no bound of its own. The same key under the
    same name again is no error. Raises UserError where the file holds no key of ours, the name belongs to another key,
    the key to another name or bound, the key was revoked, or the SuperLink does not answer.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no client name: use letters, digits, '.', '_' and '-', 63 at most")
    key = load_public_key(public_key)
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with control(connection) as client:
        known = listed(client)
        for member in known:
            if member.public_key == pem:
                if member.status == "revoked":
                    raise UserError(
                        f"{public_key}: this key was revoked as {member.name} and stays out: "
                        "make a new one on the client (`bouquet node-key` with another file)"
                    )
                if member.name != name:
                    raise UserError(f"{public_key} is already enrolled as {member.name}")
                if max_examples not in (None, member.max_examples):
                    raise UserError(
                        f"{name} is enrolled with max-examples={member.max_examples or 'none'}: to change that, "
                        f"`bouquet revoke {name}`, and enroll a new key"
                    )
                return f"{name} is enrolled already ({member.fingerprint}, node {member.node_id})"
            if member.name == name and member.status != "revoked":
                raise UserError(
                    f"{name} is enrolled with another key ({member.fingerprint}): "
                    f"choose another name, or `bouquet revoke {name}` first"
                )
        from flwr.proto.control_pb2 import RegisterNodeRequest

        node_id = client.RegisterNode(
            RegisterNodeRequest(public_key=pem, name=with_bound(name, max_examples))
        ).node_id
    bound = "" if max_examples is None else f", at most {max_examples} examples"
    return f"{name} enrolled ({fingerprint(key)}, node {node_id}{bound})"


def enroll_directory(directory: Path, connection: Connection) -> list[str]:
    """Enroll every `NAME.pub` of `directory`. A file `3.key.pub` gives `client-3`. Raises UserError."""
    files = sorted(directory.glob("*.pub"), key=lambda file: (len(file.name), file.name))
    if not files:
        raise UserError(f"{directory} holds no public key (*.pub): make keys with `bouquet node-key`")
    names = [file.stem.removesuffix(".key") for file in files]
    return [
        enroll(f"client-{name}" if is_whole(name) else name, file, connection)
        for name, file in zip(names, files, strict=True)
    ]


def revoke(name: str, connection: Connection) -> str:
    """Throw `name` out for good, at once, connected or not. Returns a line for the person.

    A revoked key never comes back: its row stays in SuperLink's state and blocks it. Raises UserError
    where nobody of that name is enrolled or the SuperLink does not answer.
    """
    with control(connection) as client:
        known = listed(client)
        current = [member for member in known if member.name == name and member.status != "revoked"]
        if not current:
            if any(member.name == name for member in known):
                return f"{name} is revoked already"
            enrolled = ", ".join(sorted(member.name for member in known if member.status != "revoked"))
            raise UserError(f"nobody is enrolled as {name}: there are {enrolled or 'no members'}")
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        for member in current:
            client.UnregisterNode(UnregisterNodeRequest(node_id=member.node_id))
    return f"{name} revoked ({current[0].fingerprint}); if connected, it is cut off within a minute"


def members(connection: Connection) -> list[Member]:
    """Return everyone ever enrolled, by name, revoked ones last. Raises UserError."""
    with control(connection) as client:
        known = listed(client)
    return sorted(known, key=lambda member: (member.status == "revoked", member.name))


def table(shown: list[Member]) -> str:
    """Return the members as a table for people: name, status, last seen (UTC), bound, node id, fingerprint."""
    rows = [("NAME", "STATUS", "LAST SEEN", "MAX EXAMPLES", "NODE", "FINGERPRINT")]
    for member in shown:
        seen = f"{member.last_seen:%Y-%m-%d %H:%M:%S}" if member.last_seen else "never"
        bound = "-" if member.max_examples is None else str(member.max_examples)
        rows.append((member.name, member.status, seen, bound, str(member.node_id), member.fingerprint))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def listed(client: "ControlHttpClient") -> list[Member]:
    """Everyone ever enrolled, in the order of the SuperLink."""
    from flwr.proto.control_pb2 import ListNodesRequest

    return [_member(node) for node in client.ListNodes(ListNodesRequest()).nodes_info]


def _member(node: "NodeInfo") -> Member:
    status = {"registered": "enrolled", REVOKED: "revoked"}.get(node.status, node.status)
    name, bound = name_and_bound(node.name)
    return Member(
        name=name or f"node-{node.node_id}",
        fingerprint=key_fingerprint(node.public_key),
        node_id=node.node_id,
        status=status,
        last_seen=_last_seen(node),
        public_key=node.public_key,
        max_examples=bound,
    )


def key_fingerprint(pem: bytes) -> str:
    """Return the fingerprint of a public key in PEM form, as Flower keeps it."""
    return fingerprint(cast(ec.EllipticCurvePublicKey, serialization.load_pem_public_key(pem)))


def _last_seen(node: "NodeInfo") -> datetime | None:
    """When the node's last heartbeat came, as near as Flower's state tells."""
    from flwr.common.constant import HEARTBEAT_PATIENCE

    if not node.last_activated_at:
        return None
    if node.status == "online":
        seconds = node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval
        return datetime.fromtimestamp(seconds, UTC)
    return datetime.fromtimestamp(node.online_until, UTC)
