"""The SuperLink's members follow the member list: a folder of NAME.pub files that the kubelet keeps current.

Nothing is revoked because a file went away: Flower never lets a revoked key in again, and a client that was
scaled away comes back with the key on its volume. Revoking is `bouquet revoke NAME`, by hand. The one
exception is a client that lost its volume and made another key: its old key is revoked for the new one.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.errors import UserError
from app.fleet.keys import load_public_key

CONTROL_API = "127.0.0.1:8000"
PAUSE_S = 5.0


@dataclass(frozen=True)
class Member:
    """One node that the SuperLink knows."""

    id: int
    name: str
    public_key: bytes
    """PEM, SubjectPublicKeyInfo."""
    revoked: bool = False


class Members(Protocol):
    """What is asked of the SuperLink's Control API."""

    def known(self) -> Iterable[Member]:
        """All nodes ever registered, revoked ones too."""

    def enroll(self, name: str, public_key: bytes) -> None:
        """Register a node."""

    def revoke(self, member: Member) -> None:
        """Take a node out for good."""


class ControlApi:
    """The members over the Control API on this pod's loopback."""

    def __init__(self, ca: Path | None, address: str = CONTROL_API) -> None:
        self._address, self._ca = address, ca

    def known(self) -> list[Member]:
        """All nodes ever registered, revoked ones too."""
        from flwr.proto.control_pb2 import ListNodesRequest

        from app.fleet.submit import control

        with control(self._address, self._ca) as client:
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
        return [
            Member(node.node_id, node.name, node.public_key, node.status == "unregistered") for node in nodes
        ]

    def enroll(self, name: str, public_key: bytes) -> None:
        """Register a node."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        from app.fleet.submit import control

        with control(self._address, self._ca) as client:
            client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))

    def revoke(self, member: Member) -> None:
        """Take a node out for good."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        from app.fleet.submit import control

        with control(self._address, self._ca) as client:
            client.UnregisterNode(UnregisterNodeRequest(node_id=member.id))


def enroll_all(folder: Path, members: Members, say: Callable[[str], None]) -> int:
    """Enrol every NAME.pub in `folder` under NAME unless it is in; return how many files there are.

    A file that holds no public key is named through `say` and left out, so that it keeps no other out.
    """
    files = sorted(folder.glob("*.pub"))
    known = list(members.known())
    by_key = {member.public_key: member for member in known}
    for file in files:
        try:
            key = load_public_key(file).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        except UserError as error:
            say(f"{file.stem}: left out, {error}")
            continue
        if key in by_key:
            if by_key[key].revoked:
                say(f"{file.stem}: its key is revoked and stays out; the client needs a new key")
            continue
        for member in known:
            if member.name == file.stem and not member.revoked:
                members.revoke(member)
                say(f"{file.stem}: old key revoked")
        members.enroll(file.stem, key)
        say(f"{file.stem}: enrolled")
    return len(files)


def keep_enrolled(
    folder: Path, enrolled: Path, alive: Callable[[], None], *, pause_s: float = PAUSE_S
) -> None:
    """Enrol what `folder` lists, now and whenever it changes; does not return.

    `enrolled` is touched once all are in. `alive` is called at every look.
    """
    ca = os.environ.get("BOUQUET_CA", "")
    members = ControlApi(Path(ca) if ca else None)
    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:
            said.add(line)
            print(line, flush=True)

    enrolled.unlink(missing_ok=True)
    listed: dict[str, str] = {}
    while True:
        alive()
        now = {file.name: file.read_text() for file in folder.glob("*.pub")}
        if now and now != listed:
            try:
                count = enroll_all(folder, members, say)
            except Exception as error:  # the SuperLink is starting or was restarted; ask again
                say(f"no answer from the SuperLink at {CONTROL_API} yet: {type(error).__name__} {error}")
            else:
                listed = now
                enrolled.touch()
                print(f"{count} members listed", flush=True)
        time.sleep(pause_s if listed else 0.5)
