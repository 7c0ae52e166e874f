"""The structure of `app/`: imports go down, folders are small, and what travels to clients is the smallest part."""

import ast
import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from container_engine import ROOT

from app.fleet.runs.bundle import build

# Rooms and single modules from the top down: each imports only what stands below it, or in the same line.
LAYERS = (
    "app.cli",
    "app.watch",
    "app.tutorial",
    "app.models",
    "app.fleet.kubernetes",
    "app.fleet.local",
    "app.fleet.runs",
    "app.fleet.dependencies",
    "app.fleet.superlink app.fleet.supernode",
    "app.fleet.warm app.fleet.serverapp",
    "app.fleet.patches",
    "app.fleet.fleet_api",
    "app.fleet.identity",
    "app.fleet.host",
    "app.fleet.control app.fleet.deployment app.fleet.flower app.fleet.logs app.fleet.quiet app.fleet",
    "app.fleet.site",
    "app.server_app app.client_app",
    "app.rounds",
    "app.learning",
    "app.learning.data",
    "app.packing",
    "app.settings",
    "app.environment app.files app.process app.errors app",
)
MOST_MODULES = 12  # in a folder, without __init__.py
MOST_LINES = 60  # of a function
LARGEST_BUNDLE = 272_000  # bytes


@cache
def _modules() -> dict[str, Path]:
    found = {}
    for file in sorted((ROOT / "app").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def _imports(module: str, *, only_types: bool = False) -> set[str]:
    """The modules of `app/` that one imports, also inside functions; without those that only serve type hints."""
    tree = ast.parse(_modules()[module].read_text(encoding="utf-8"))
    hints = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hints and not only_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "app":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in _modules() else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "app"}
    return found & _modules().keys()


def _layer(module: str) -> int:
    """The line of LAYERS that names the module, or the nearest folder that holds it."""
    name = module
    while True:
        for number, line in enumerate(LAYERS):
            if name in line.split():
                return number
        name = name.rpartition(".")[0]


def test_every_import_goes_down() -> None:
    upward = [
        f"{module} imports {other}"
        for module in _modules()
        for other in _imports(module)
        if _layer(other) < _layer(module)
    ]
    assert not upward


def test_no_import_goes_in_a_circle() -> None:
    state: dict[str, bool] = {}  # False while its imports are being followed
    path: list[str] = []

    def follow(module: str) -> None:
        if state.get(module) is False:
            raise AssertionError(" -> ".join([*path[path.index(module) :], module]))
        if module in state:
            return
        state[module] = False
        path.append(module)
        for other in sorted(_imports(module) - {module}):
            follow(other)
        path.pop()
        state[module] = True

    for module in _modules():
        follow(module)


def test_a_folder_holds_about_ten_modules() -> None:
    crowded = {}
    for folder in {file.parent for file in _modules().values()}:
        count = len([file for file in folder.glob("*.py") if file.name != "__init__.py"])
        if count > MOST_MODULES:
            crowded[folder.relative_to(ROOT).as_posix()] = count
    assert not crowded


def test_a_function_fits_on_a_screen() -> None:
    long = [
        f"{module}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for module, file in _modules().items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MOST_LINES
    ]
    assert not long


# -- what travels -------------------------------------------------------------------------------


def _closure(*modules: str) -> set[str]:
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            waiting += _imports(module)
            waiting += [module.rpartition(".")[0]] if "." in module else []
    return found


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return build(ROOT)


def _travelling(content: bytes) -> Iterator[str]:
    for name in zipfile.ZipFile(io.BytesIO(content)).namelist():
        if name.endswith(".py"):
            yield name


def test_what_the_two_apps_import_travels_and_nothing_else(bundle: bytes) -> None:
    needed = {
        _modules()[module].relative_to(ROOT).as_posix()
        for module in _closure("app.client_app", "app.server_app")
    }
    assert set(_travelling(bundle)) == needed
    assert len(bundle) < LARGEST_BUNDLE


def test_both_apps_import_from_the_bundle_alone(bundle: bytes, tmp_path: Path) -> None:
    zipfile.ZipFile(io.BytesIO(bundle)).extractall(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import app.client_app, app.server_app\n"
        "import pathlib\n"
        "own = [m for n, m in sys.modules.items() if n == 'app' or n.startswith('app.')]\n"
        "assert all(pathlib.Path(m.__file__).is_relative_to(sys.argv[1]) for m in own)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_an_edit_of_what_stays_does_not_change_the_hash(bundle: bytes, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)

    def digest() -> str:
        return hashlib.sha256(build(tmp_path)).hexdigest()

    before = digest()
    assert before == hashlib.sha256(bundle).hexdigest()
    for file in ("fleet/superlink.py", "fleet/kubernetes/keys.py", "cli/main.py", "learning/data/prepare.py"):
        with (tmp_path / "app" / file).open("a") as source:
            source.write("\n# an edit\n")
    (tmp_path / "app" / "fleet" / "new.py").write_text("")
    assert digest() == before
    with (tmp_path / "app" / "client_app.py").open("a") as source:
        source.write("\n# an edit\n")
    assert digest() != before
