"""The apps of a folder, and what each one needs that is not here."""

import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.fleet.dependencies import environment
from app.fleet.dependencies.requirements import asked, compare, installed_here
from bench.environments import ROOT
from bench.processes import BenchError

ROUNDS_KEY = "num-server-rounds"


@dataclass(frozen=True)
class Example:
    """One app."""

    name: str
    folder: Path
    manifest: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """Its run config."""
        return dict(self.manifest["tool"]["flwr"]["app"].get("config", {}))


def find(folder: Path) -> list[Example]:
    """The apps in `folder` and in the folders directly below it. Raises BenchError where there is none."""
    if not folder.is_dir():
        raise BenchError(f"{folder} is no folder; give a checkout of Flower's examples, or a folder of apps")
    found = []
    for place in (folder, *sorted(each for each in folder.iterdir() if each.is_dir())):
        try:
            manifest = tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))
            components = manifest["tool"]["flwr"]["app"]["components"]
        except (OSError, ValueError, KeyError):
            continue
        if {"serverapp", "clientapp"} <= components.keys():
            found.append(Example(place.resolve().name, place.resolve(), manifest))
    if not found:
        raise BenchError(
            f"{folder} and the folders in it hold no Flower app, a pyproject.toml with [tool.flwr.app]"
        )
    return found


def copied(example: Example, target: Path) -> Path:
    """A copy to run, because a run leaves files."""
    app = target / example.name
    shutil.copytree(
        example.folder, app, ignore=shutil.ignore_patterns("__pycache__", ".*"), dirs_exist_ok=True
    )
    return app


def surroundings(example: Example) -> tuple[Path | None, list[str]]:
    """A folder with the packages that an app asks for and are not here, and what is here in another version.

    Both as `bouquet up` does it: all contenders share what is here.

    Raises:
        BenchError: the packages cannot be had.
    """
    try:
        conflicts = compare(asked(example.manifest), installed_here()).conflicts
        packages = environment.make(example.manifest, lambda _line: None, ROOT / environment.FOLDER)
    except UserError as error:
        raise BenchError(str(error)) from None
    return packages, [f"{each.wanted} (here {each.version})" for each in conflicts]
