"""Which apps a client runs: the hash of an app's bundle, and a list of those that are accepted.

A SuperNode executes what the server sends it. A client that pins `BOUQUET_ALLOWED_APPS` executes only
bundles that its operator has seen: the same files give the same hash on every machine, so an operator can
build the bundle from the source they have read and compare.
"""

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from app.errors import UserError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def app_hash(project: Path) -> str:
    """Return the SHA-256 of the bundle (FAB) that `flwr run` makes of `project` and sends to the clients.

    Raises UserError where the folder holds no Flower app.
    """
    from flwr.cli.build import build_fab_from_disk

    if not (project / "pyproject.toml").is_file():
        raise UserError(f"{project} holds no pyproject.toml: give the folder of a Flower app")
    try:
        return hashlib.sha256(build_fab_from_disk(project)).hexdigest()
    except ValueError as error:
        raise UserError(f"{project} cannot be built into an app: {' '.join(str(error).split())}") from None


def parse_allowed(text: str) -> frozenset[str]:
    """Return the hashes of a comma-separated list (`BOUQUET_ALLOWED_APPS`); empty means any app.

    Raises UserError for what is no hash: a list with a typing error must not pass for an empty one.
    """
    hashes = frozenset(part.lower() for part in re.split(r"[,\s]+", text) if part)
    for value in sorted(hashes):
        if not _SHA256.fullmatch(value):
            raise UserError(
                f"BOUQUET_ALLOWED_APPS holds {value!r}, which is no app hash: "
                "give the 64 digits that `bouquet app-hash` prints, separated by commas"
            )
    return hashes


def is_allowed(content: bytes, allowed: Collection[str]) -> bool:
    """Whether a client with this list may run the bundle `content`.

    The hash is taken of the bytes that would run, not from what the server says they are.
    """
    return not allowed or hashlib.sha256(content).hexdigest() in allowed
