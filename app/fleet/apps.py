"""Which apps a client runs: the hash of an app's bundle, and a list of those that are accepted.

A SuperNode executes what the server sends it. A client that pins `BOUQUET_ALLOWED_APPS` executes only
bundles that its operator has seen: the same files give the same hash on every machine, so an operator can
build the bundle from the source they have read and compare.

Read in flwr 1.39.0: `cli/build.py`, `cli/utils.py`.
"""

import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path

from app.errors import UserError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def build(project: Path) -> bytes:
    """Return the bundle (FAB) that `flwr build` makes of `project`: what a SuperLink sends to the clients.

    Raises UserError where the folder holds no Flower app.
    """
    from flwr.cli.build import build_fab_from_files

    if not (project / "pyproject.toml").is_file():
        raise UserError(f"{project} holds no pyproject.toml: give the folder of a Flower app")
    try:
        bundle: bytes = build_fab_from_files(_files(project.resolve()))[0]
    except ValueError as error:
        raise UserError(f"{project} cannot be built into an app: {' '.join(str(error).split())}") from None
    return bundle


def _files(project: Path) -> dict[str, Path]:
    """Every file that may belong to the bundle, by its path within `project`.

    Flower looks at every file below the folder first and filters then: seconds where a virtual environment or a
    data set lies beside the app. Here the folders that its filter would empty are not entered.
    """
    from flwr.cli.utils import build_pathspec, load_gitignore_patterns
    from flwr.supercore.constant import APP_PUBLISH_EXCLUDE_PATTERNS

    ignored = load_gitignore_patterns(project / ".gitignore")
    skipped = [build_pathspec(APP_PUBLISH_EXCLUDE_PATTERNS)]
    # A pattern with `!` may want something below an ignored folder after all.
    if not any(pattern.startswith("!") for pattern in ignored):
        skipped.append(build_pathspec(ignored))
    found: dict[str, Path] = {}
    for name, folders, files in os.walk(project):
        folder = Path(name)
        place = folder.relative_to(project)
        folders[:] = [
            f for f in folders if not any(s.match_file(f"{(place / f).as_posix()}/") for s in skipped)
        ]
        found |= {(place / f).as_posix(): folder / f for f in files if not (folder / f).is_symlink()}
    return found


def app_hash(project: Path) -> str:
    """Return the SHA-256 of the bundle of `project`. Raises UserError where the folder holds no Flower app."""
    return hashlib.sha256(build(project)).hexdigest()


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
