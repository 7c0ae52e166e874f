"""The members of a federation: who is enrolled, who is online, who was thrown out.

SuperLink's own state is the only record: it keeps each key with its name.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.errors import UserError
from app.fleet.keys import fingerprint, load_public_key

if TYPE_CHECKING:
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.control import ControlHttpClient

REVOKED = "unregistered"  # Flower's word in NodeInfo.status
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Connection:
    """How the SuperLink's Control API is reached. It listens on loopback only."""

    address: str = "127.0.0.1:8000"
    ca: Path | None = None  # the federation's ca.crt; None for a SuperLink without TLS


@dataclass(frozen=True)
class Member:
    """One enrolled key."""

    name: str
    fingerprint: str
    node_id: int
    status: str  # "enrolled" (never seen), "online", "offline" or "revoked"
    last_seen: datetime | None
    public_key: bytes  # PEM


def enroll(name: str, public_key: Path, connection: Connection) -> str:
    """Register a client's public key under `name`. Returns a line for the person.

    The same key under the same name again is no error. Raises UserError where the file holds no key of
    ours, the name belongs to another key, the key to another name, the key was revoked, or the SuperLink
    does not answer.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no client name: use letters, digits, '.', '_' and '-', 63 at most")
    key = load_public_key(public_key)
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with _control(connection) as client:
        known = _list(client)
        for member in known:
            if member.public_key == pem:
                if member.status == "revoked":
                    raise UserError(
                        f"{public_key}: this key was revoked as {member.name} and stays out: "
                        "make a new one on the client (`bouquet node-key` with another file)"
                    )
                if member.name != name:
                    raise UserError(f"{public_key} is already enrolled as {member.name}")
                return f"{name} is enrolled already ({member.fingerprint}, node {member.node_id})"
            if member.name == name and member.status != "revoked":
                raise UserError(
                    f"{name} is enrolled with another key ({member.fingerprint}): "
                    f"choose another name, or `bouquet revoke {name}` first"
                )
        from flwr.proto.control_pb2 import RegisterNodeRequest

        node_id = client.RegisterNode(RegisterNodeRequest(public_key=pem, name=name)).node_id
    return f"{name} enrolled ({fingerprint(key)}, node {node_id})"


def enroll_directory(directory: Path, connection: Connection) -> list[str]:
    """Enroll every `<name>.key.pub` of `directory`; a file `3.key.pub` gives `client-3`. Raises UserError."""
    files = sorted(directory.glob("*.key.pub"), key=lambda file: (len(file.name), file.name))
    if not files:
        raise UserError(f"{directory} holds no *.key.pub: make keys with `bouquet node-key`")
    names = [file.name.removesuffix(".key.pub") for file in files]
    return [
        enroll(f"client-{name}" if name.isdigit() else name, file, connection)
        for name, file in zip(names, files, strict=True)
    ]


def revoke(name: str, connection: Connection) -> str:
    """Throw `name` out for good, at once, connected or not. Returns a line for the person.

    A revoked key never comes back: its row stays in SuperLink's state and blocks it. Raises UserError
    where nobody of that name is enrolled or the SuperLink does not answer.
    """
    with _control(connection) as client:
        known = _list(client)
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
    with _control(connection) as client:
        known = _list(client)
    return sorted(known, key=lambda member: (member.status == "revoked", member.name))


def table(listed: list[Member]) -> str:
    """Return the members as a table for people: name, status, last seen (UTC), node id, fingerprint."""
    rows = [("NAME", "STATUS", "LAST SEEN", "NODE", "FINGERPRINT")]
    for member in listed:
        seen = f"{member.last_seen:%Y-%m-%d %H:%M:%S}" if member.last_seen else "never"
        rows.append((member.name, member.status, seen, str(member.node_id), member.fingerprint))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _list(client: "ControlHttpClient") -> list[Member]:
    from flwr.proto.control_pb2 import ListNodesRequest

    return [_member(node) for node in client.ListNodes(ListNodesRequest()).nodes_info]


def _member(node: "NodeInfo") -> Member:
    status = {"registered": "enrolled", REVOKED: "revoked"}.get(node.status, node.status)
    return Member(
        name=node.name or f"node-{node.node_id}",
        fingerprint=key_fingerprint(node.public_key),
        node_id=node.node_id,
        status=status,
        last_seen=_last_seen(node),
        public_key=node.public_key,
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


@contextmanager
def _control(connection: Connection) -> Iterator["ControlHttpClient"]:
    """The Control API; what goes wrong with it becomes one line."""
    import httpx
    from flwr.cli.utils import CliClientHttpInterceptor  # type: ignore[attr-defined]
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.error import FlowerError
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    where = f"the SuperLink's Control API at {connection.address}"
    if connection.ca is not None and not connection.ca.is_file():
        raise UserError(f"BOUQUET_CA (--ca): {connection.ca} does not exist")
    client = ControlHttpClient.from_server_address(
        server_address=connection.address,
        insecure=connection.ca is None,
        root_certificates=connection.ca.read_bytes() if connection.ca else None,
        interceptors=[CliClientHttpInterceptor(), RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        yield client
    except httpx.HTTPStatusError as error:
        flower = FlowerError.from_json(error.response.text)
        reason = flower.message if flower else f"status {error.response.status_code}"
        raise UserError(f"{where} refused: {reason}") from None
    except httpx.RequestError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise UserError(
                f"{where} shows a certificate that {connection.ca} did not sign: give its ca.crt"
            ) from None
        if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError) and connection.ca is None:
            raise UserError(f"{where} speaks TLS: give its ca.crt (BOUQUET_CA, --ca)") from None
        raise UserError(
            f"{where} does not answer: start the SuperLink, and run this on its host (in its container), "
            "because that port is open on loopback only"
        ) from None
    finally:
        client.close()
