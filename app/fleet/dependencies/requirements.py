"""What an app's ``pyproject.toml`` asks for, beside what is installed.

``python -m app.fleet.dependencies.requirements`` prints what is installed here, as JSON: so an image is asked.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from app.errors import UserError

NOT_NEEDED = {("flwr", "simulation")}  # extras by package: Ray, which only a simulation runs on


class Package(NamedTuple):
    """An installed package: its version, and the requirements that its metadata names, those of extras among them."""

    version: str
    requires: tuple[str, ...] = ()


Installed = Mapping[str, Package]  # by canonical name


class Conflict(NamedTuple):
    """Two versions of one package that cannot both be there."""

    wanted: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"the app asks for {self.wanted}, and here is {self.name} {self.version}"


class Comparison(NamedTuple):
    """What of the requirements is not here, and what is here in another version."""

    missing: list[Requirement]
    conflicts: list[Conflict]


def installed_here() -> Installed:
    """The packages of this Python."""
    return {
        canonicalize_name(name): Package(found.version, tuple(found.requires or ()))
        for found in metadata.distributions()
        if (name := found.metadata["Name"])
    }


def read_installed(text: str) -> Installed:
    """What :func:`main` has printed."""
    return {name: Package(version, tuple(requires)) for name, (version, requires) in json.loads(text).items()}


def asked(manifest: Mapping[str, Any]) -> list[Requirement]:
    """The requirements of an app, of its ``pyproject.toml``. Raises UserError where one cannot be read."""
    found = manifest.get("project", {}).get("dependencies", [])
    try:
        return [Requirement(text) for text in found]
    except (InvalidRequirement, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"dependencies in the app's pyproject.toml: {reason}; mend it") from None


def compare(requirements: Sequence[Requirement], installed: Installed) -> Comparison:
    """What is not here, and what is here in another version; extras of packages that are here count as their parts."""
    found = Comparison([], [])
    for each in _with_extras(requirements, installed):
        here = installed.get(canonicalize_name(each.name))
        if here is None:
            if str(each) not in map(str, found.missing):
                found.missing.append(each)
        elif not each.specifier.contains(Version(here.version), prereleases=True):
            found.conflicts.append(Conflict(_short(each), each.name, here.version))
    return found


def _with_extras(requirements: Sequence[Requirement], installed: Installed) -> Iterator[Requirement]:
    waiting, seen = list(requirements), set[str]()
    while waiting:
        each = waiting.pop(0)
        if str(each) in seen or (each.marker and not each.marker.evaluate({"extra": ""})):
            continue
        seen.add(str(each))
        yield each
        name = canonicalize_name(each.name)
        for extra in sorted(each.extras if name in installed else ()):
            if (name, extra) in NOT_NEEDED:
                continue
            for part in map(Requirement, installed[name].requires):
                if (
                    part.marker
                    and not part.marker.evaluate({"extra": ""})
                    and part.marker.evaluate({"extra": extra})
                ):
                    part.marker = None
                    waiting.append(part)


def _short(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def main() -> None:
    """Print what is installed here."""
    print(json.dumps(installed_here()))


if __name__ == "__main__":
    main()
