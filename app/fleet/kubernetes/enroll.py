"""The SuperLink's members follow the member list: a folder of NAME.pub files that the kubelet keeps current.

Nothing is revoked because a file went away: Flower never lets a revoked key in again, and a client that was
scaled away comes back with the key on its volume. Revoking is `bouquet revoke NAME`, by hand. The one
exception is a client that lost its volume and made another key: its old key is revoked for the new one.
"""

import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.errors import UserError
from app.fleet.control import Connection
from app.fleet.identity import members
from app.fleet.identity.keys import load_public_key

PAUSE_S = 5.0


def enroll_all(folder: Path, connection: Connection, echo: Callable[[str], None]) -> int:
    """Enrol every NAME.pub in `folder` under NAME; return how many files there are.

    A file that cannot be enrolled is named through `echo` and left out: it keeps no other out. Raises
    UserError where the SuperLink does not answer.
    """
    known = members.members(connection)
    current = {member.name: member.public_key for member in known if member.status != "revoked"}
    seen = {member.public_key for member in known}
    files = sorted(folder.glob("*.pub"))
    for file in files:
        name = file.stem
        try:
            key = load_public_key(file).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            if name in current and key not in seen:
                echo(members.revoke(name, connection))
            echo(members.enroll(name, file, connection))
        except UserError as error:
            echo(f"{name}: left out, {error}")
    return len(files)


def keep_enrolled(
    folder: Path,
    connection: Connection,
    enrolled: Path,
    alive: Callable[[], None],
    *,
    pause_s: float = PAUSE_S,
) -> None:
    """Enrol what `folder` lists, now and whenever it changes; does not return.

    `enrolled` is touched once all are in. `alive` is called at every look.
    """
    enrolled.unlink(missing_ok=True)
    listed: dict[str, str] = {}
    said = ""
    while True:
        alive()
        now = {file.name: file.read_text() for file in folder.glob("*.pub")}
        if now and now != listed:
            try:
                count = enroll_all(folder, connection, lambda line: print(line, flush=True))
            except UserError as error:  # the SuperLink is starting; asked again
                if said != (said := str(error)):
                    print(said, flush=True)
            else:
                listed = now
                enrolled.touch()
                print(f"{count} members listed", flush=True)
        time.sleep(pause_s if listed else 0.5)
