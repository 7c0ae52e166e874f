"""What an app asks for beside Bouquet, where its processes run as they are: a folder of packages, made once.

The folder is kept by the hash of what the app asks for and of what is here.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.environment import set_variables, variables
from app.errors import UserError
from app.fleet.dependencies import packages
from app.fleet.dependencies.requirements import Comparison, Installed, asked, compare, installed_here

FOLDER = Path(".bouquet") / "environments"


def require(manifest: Mapping[str, Any], echo: Callable[[str], None]) -> None:
    """Say what is here in another version than an app asks for. Raises UserError where something is not here."""
    found = _compare(manifest, installed_here(), echo)
    if found.missing:
        names = ", ".join(str(each) for each in found.missing)
        raise UserError(
            f"the app asks for {names}, which is not installed here: build images with `bouquet image --app APP`, or install "
            "it beside Bouquet on the server and on every client; `bouquet up` does it by itself"
        )


def make(manifest: Mapping[str, Any], echo: Callable[[str], None], folder: Path = FOLDER) -> Path | None:
    """The folder of packages that an app needs beside those that are here, made if it is not there; None for none.

    Raises UserError as :func:`packages.add` does.
    """
    installed = installed_here()
    found = _compare(manifest, installed, echo)
    if not found.missing:
        return None
    place = (folder / _key(found, installed)).absolute()
    if not place.is_dir():
        echo(f"adding what the app asks for: {', '.join(map(str, found.missing))}")
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent))
        try:
            packages.add(found.missing, aside / "packages")
            if not place.is_dir():  # another has made it meanwhile
                (aside / "packages").rename(place)
        finally:
            shutil.rmtree(aside)
    return place


def use(place: Path) -> None:
    """Let this process and its children import from a folder of packages, after what is here."""
    sys.path.append(str(place))
    before = variables().get("PYTHONPATH", "")
    set_variables({"PYTHONPATH": os.pathsep.join(filter(None, [before, str(place)]))})


def _compare(manifest: Mapping[str, Any], installed: Installed, echo: Callable[[str], None]) -> Comparison:
    found = compare(asked(manifest), installed)
    for conflict in found.conflicts:
        echo(f"warning: {conflict}: it runs with that")
    return found


def _key(found: Comparison, installed: Installed) -> str:
    told = [
        sorted(map(str, found.missing)),
        sorted((name, package.version) for name, package in installed.items()),
        [platform.python_version(), platform.machine()],
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
