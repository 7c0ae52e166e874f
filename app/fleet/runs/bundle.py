"""The bundle (FAB) of a Flower app, and its hash.

The same files give the same hash on every machine. So an operator can build the bundle from the source that
they have read, and compare its hash with that of the bundle that a server sends.

Read in flwr 1.39.0: `cli/build.py`, `cli/utils.py`.
"""

import hashlib
import io
import os
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.fleet.runs.checks import check_app

WRITTEN_HERE = (".bouquet/", "results/")  # what a run writes into the current folder, which may be the app's


def build(project: Path) -> bytes:
    """Return the bundle (FAB) of an app: what a SuperLink sends to the clients.

    Args:
        project: its folder, of which the bundle is what `flwr build` makes; or the bundle itself.

    Raises:
        UserError: there is no Flower app.
    """
    from flwr.cli.build import build_fab_from_files

    if project.is_file():
        return _read(project)
    if not (project / "pyproject.toml").is_file():
        raise UserError(f"{project} holds no pyproject.toml: give the folder of a Flower app")
    try:
        bundle: bytes = build_fab_from_files(_files(project.resolve()))[0]
    except ValueError as error:
        raise UserError(f"{project} cannot be built into an app: {' '.join(str(error).split())}") from None
    return bundle


def manifest(project: Path) -> dict[str, Any]:
    """The ``pyproject.toml`` of an app, which is a folder or a bundle. Raises UserError where it has none."""
    file = project / "pyproject.toml"
    try:
        if project.is_file():
            return tomllib.loads(content_of(_read(project), file.name).decode())
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{project} is no Flower app: it has no pyproject.toml") from None
    except ValueError as error:
        raise UserError(f"{file} is not that of a Flower app: {error}") from None


def content_of(bundle: bytes, name: str) -> bytes:
    """A file of a bundle. Raises KeyError where it has none."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as files:
        return files.read(name)


def _read(file: Path) -> bytes:
    """A bundle from a file. Raises UserError where it is none."""
    try:
        bundle = file.read_bytes()
        content_of(bundle, "pyproject.toml")
    except (OSError, KeyError, zipfile.BadZipFile):
        raise UserError(
            f"{file} is no bundle of a Flower app: give its folder, or a .fab of `flwr build`"
        ) from None
    return bundle


def check(project: Path) -> None:
    """Raise UserError, with the file and what is wrong, where the app in ``project`` cannot run."""
    check_app(build(project))


def _files(project: Path) -> dict[str, Path]:
    """Every file that may belong to the bundle, by its path within `project`.

    Flower first lists every file below the folder and then filters. That takes seconds where a virtual environment or
    a data set lies beside the app. This function does not enter the folders that Flower's filter would empty, nor those
    that a run has written: clients pin the bundle's hash, and are sent what is in it.
    """
    from flwr.cli.utils import build_pathspec, load_gitignore_patterns
    from flwr.supercore.constant import APP_PUBLISH_EXCLUDE_PATTERNS

    ignored = load_gitignore_patterns(project / ".gitignore")
    own = [f"/{folder}" for folder in WRITTEN_HERE if not (project / folder / "__init__.py").exists()]
    skipped = [build_pathspec(APP_PUBLISH_EXCLUDE_PATTERNS), build_pathspec(own)]
    # A pattern with `!` may include a file below an ignored folder.
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
