"""pip, which finds what an app asks for beside what is here, and puts only that into a folder.

What is here stays as it is: its versions are constraints. The folder then stands on ``PYTHONPATH``.

``python -m app.fleet.dependencies.packages [--wheels FOLDER] FOLDER REQUIREMENT...`` does this while an image is built.

pip finds its index in its own configuration. With a folder of wheels it asks no index.
"""

import json
import re
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.errors import UserError
from app.fleet.dependencies.requirements import Installed, installed_here

_DEPENDS = re.compile(r"^\s+(\S+ \S+) depends on (\S.*?)\s*$", re.MULTILINE)
_NOT_FOUND = re.compile(r"No matching distribution found for (.+)")


def add(requirements: Sequence[Requirement], folder: Path, wheels: Path | None = None) -> list[str]:
    """Put what is asked for, and what that needs and is not here, into ``folder``; returns names with versions.

    Args:
        requirements: packages that are not here.
        folder: does not exist yet.
        wheels: a folder of wheels, in the place of an index.

    Raises:
        UserError: pip is not here, a package is not to be found, or does not go with what is here.
    """
    installed = installed_here()
    source = [] if wheels is None else ["--no-index", "--find-links", str(wheels)]
    with tempfile.TemporaryDirectory() as aside:
        pins = Path(aside, "constraints.txt")
        pins.write_text("".join(f"{name}=={package.version}\n" for name, package in installed.items()))
        report = Path(aside, "report.json")
        command = ["--dry-run", "--report", str(report), "--constraint", str(pins), *source]
        _pip([*command, *map(str, requirements)], installed)
        found = sorted(_pin(item) for item in json.loads(report.read_text())["install"])
    _pip(["--no-deps", "--target", str(folder), *source, *found], installed)
    return found


def _pin(item: dict[str, object]) -> str:
    """A package of pip's report as it is installed afterwards."""
    told = item["metadata"]
    assert isinstance(told, dict)
    if item.get("is_direct"):
        download = item["download_info"]
        assert isinstance(download, dict)
        return f"{told['name']} @ {download['url']}"
    return f"{told['name']}=={told['version']}"


def _pip(arguments: list[str], installed: Installed) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments],
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    if "No module named pip" in said:
        raise UserError(
            f"the app asks for more packages, and {sys.executable} has no pip to add them: python -m ensurepip"
        )
    for who, what in _DEPENDS.findall(said):
        needed = Requirement(what)
        here = installed.get(canonicalize_name(needed.name))
        if here is not None and not needed.specifier.contains(here.version, prereleases=True):
            raise UserError(
                f"the app asks for {who}, which needs {what}, and here is {needed.name} {here.version}; "
                "ask for a version that goes with it"
            )
    if missing := _NOT_FOUND.search(said):
        raise UserError(
            f"the app asks for {missing[1]}, which is not to be found where pip looks; look at its name, "
            "pip's configuration (`pip config list`), or the folder of wheels"
        )
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    raise UserError(f"pip could not add what the app asks for: {(errors or said.strip().splitlines())[-1]}")


def main() -> None:
    """Add what the command line names; see the module."""
    parser = ArgumentParser()
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("requirements", type=Requirement, nargs="+")
    given = parser.parse_args()
    try:
        found = add(given.requirements, given.folder, given.wheels)
    except UserError as error:
        sys.exit(f"error: {error}")
    print("\n".join(found))


if __name__ == "__main__":
    main()
