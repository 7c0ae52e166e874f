"""The apps of a folder, and what each one needs that is not here."""

import hashlib
import shutil
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from bench import environments
from bench.processes import BenchError

ROUNDS_KEY = "num-server-rounds"
LESS = {"xgboost": "xgboost-cpu"}  # the same module without CUDA, a fortieth of its size


@dataclass(frozen=True)
class Example:
    """One app."""

    name: str
    folder: Path
    manifest: dict[str, Any]

    @property
    def requirements(self) -> list[str]:
        """What its pyproject.toml asks for."""
        return list(self.manifest["project"].get("dependencies", []))

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


def copied(example: Example, target: Path) -> tuple[Path, list[str]]:
    """A copy to run, because a run leaves files, and the pins that it had to give up.

    An example often names one version of PyTorch. Here all contenders share one environment, so what is in it already
    is taken in the version that is there.
    """
    app = target / example.name
    shutil.copytree(
        example.folder, app, ignore=shutil.ignore_patterns("__pycache__", ".*"), dirs_exist_ok=True
    )
    text, given_up = (app / "pyproject.toml").read_text(encoding="utf-8"), []
    for line in example.requirements:
        needed = _requirement(line)
        if (here := _version(needed.name)) and not needed.specifier.contains(here, prereleases=True):
            given_up.append(f"{needed.name}{needed.specifier} (here {here})")
            text = text.replace(line, needed.name)
    (app / "pyproject.toml").write_text(text, encoding="utf-8")
    return app, given_up


def layer(example: Example) -> Path | None:
    """A folder for PYTHONPATH with the packages that are not here; None where nothing lacks.

    Raises:
        BenchError: they cannot be installed.
    """
    lacking = sorted(
        line.replace(needed.name, LESS.get(needed.name, needed.name), 1)
        for line in example.requirements
        if not _version((needed := _requirement(line)).name)
    )
    if not lacking:
        return None
    path = environments.VENVS / f"examples-{hashlib.sha256(repr(lacking).encode()).hexdigest()[:12]}"
    environments.layer(path, lacking)
    return environments.packages(path)


def _requirement(line: str) -> Requirement:
    try:
        return Requirement(line)
    except InvalidRequirement:
        raise BenchError(f"its pyproject.toml asks for {line!r}, which is no requirement") from None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
