"""The bundle of an app, and its hash."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import UserError
from app.fleet.runs.bundle import app_hash, build, check, manifest
from app.fleet.runs.submit import run_config_for

PYPROJECT = """
[project]
name = "sample"
version = "1.0.0"
[tool.flwr.app]
publisher = "someone"
[tool.flwr.app.components]
serverapp = "sample.server:app"
clientapp = "sample.client:app"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "sample"
    (folder / "sample").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    for name in ("__init__", "server", "client"):
        (folder / "sample" / f"{name}.py").write_text(f"'''{name}'''\napp = None\n")
    return folder


def test_the_hash_is_that_of_the_bundle_flower_builds(project: Path, tmp_path: Path) -> None:
    subprocess.run(
        [str(Path(sys.executable).with_name("flwr")), "build", "--app", str(project)],
        cwd=tmp_path,
        env=os.environ | {"FLWR_HOME": str(tmp_path / "home"), "FLWR_TELEMETRY_ENABLED": "0"},
        check=True,
        capture_output=True,
    )
    [bundle] = tmp_path.glob("*.fab")
    assert hashlib.sha256(bundle.read_bytes()).hexdigest() == app_hash(project)


@pytest.mark.parametrize(
    "ignored",
    ["", "data/\n*.md\n", "data/*\n!data/kept.py\n", "x\n/sample/deep/\n", "*\n!*.py\n!*.toml\n!*/\n"],
)
def test_the_bundle_holds_what_flower_would_take_and_nothing_else_is_looked_at(
    project: Path, ignored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flwr.cli.build import build_fab_from_disk

    (project / ".gitignore").write_text(ignored)
    for name in (
        "data/other.py", "data/kept.py", "sample/deep/x/more.py", "sample/x.py", "notes.md", ".venv/lib/heavy.py",
        "sample/__pycache__/client.py", "tests/x/y.json",
    ):  # fmt: skip
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(f"# {name}\n")
    (project / "sample" / "link.py").symlink_to(project / "notes.md")
    expected = build_fab_from_disk(project)
    walked: list[str] = []
    is_symlink = Path.is_symlink

    def noted(file: Path) -> bool:
        walked.append(str(file))
        return is_symlink(file)

    monkeypatch.setattr(Path, "is_symlink", noted)
    assert build(project) == expected
    assert not [file for file in walked if ".venv" in file or "__pycache__" in file]


def test_the_hash_is_the_same_for_the_same_files_and_another_for_others(
    project: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere" / "sample"
    shutil.copytree(project, elsewhere)
    for file in elsewhere.rglob("*"):
        os.utime(file, (1e9, 1e9))
    assert app_hash(elsewhere) == app_hash(project)
    (elsewhere / "sample" / "client.py").write_text("import os\n")
    assert app_hash(elsewhere) != app_hash(project)


def test_a_folder_without_an_app_is_named(tmp_path: Path, project: Path) -> None:
    with pytest.raises(UserError, match=r"holds no pyproject\.toml"):
        app_hash(tmp_path)
    (project / "pyproject.toml").write_text('[project]\nname = "sample"\nversion = "1.0.0"\n')
    with pytest.raises(UserError, match="cannot be built into an app"):
        app_hash(project)


def test_what_a_run_writes_into_the_apps_folder_is_not_in_the_bundle(project: Path) -> None:
    before = app_hash(project)
    for name in (".bouquet/data/store/manifest.json", "results/latest/summary.json", "results/notes.md"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("{}")
    assert app_hash(project) == before
    (project / "results" / "__init__.py").write_text("")
    assert app_hash(project) != before, "a package of the app that is called so"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("sample/client.py", "app = (\n", r"the app's sample/client\.py, line 1: "),
        ("sample/helper.py", "x = 1\0\n", r"the app's sample/helper\.py"),
        (
            "sample/client.py",
            "other = 1\n",
            r"clientapp = 'sample\.client:app' .* sample/client\.py has no app",
        ),
        ("sample/client.py", "def f() -> None:\n    app = 1\n", "has no app"),
    ],
)
def test_an_app_that_cannot_run_is_told_with_its_file(
    project: Path, file: str, content: str, words: str
) -> None:
    (project / file).write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        check(project)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "from sample.server import app\n",
        "import sample.server as app\n",
        "from sample.server import *\n",
        "try:\n    import torch\nexcept ImportError:\n    app = None\nelse:\n    app = 1\n",
        "if True:\n    def app() -> None: ...\n",
        "app: object = None\n",
    ],
)
def test_a_component_may_be_bound_in_any_way(project: Path, content: str) -> None:
    (project / "sample" / "client.py").write_text(content)
    check(project)


def test_a_component_without_a_module_is_told(project: Path) -> None:
    (project / "sample" / "client.py").unlink()
    with pytest.raises(UserError, match=r"the app has no module sample\.client"):
        check(project)


def test_a_bundle_stands_for_its_app(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "sample.fab"
    file.write_bytes(build(project))
    assert build(file) == build(project) and app_hash(file) == app_hash(project)
    assert manifest(file)["project"] == manifest(project)["project"]
    assert run_config_for(file, 2, None, "") == {}
    file.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"sample\.fab is no bundle of a Flower app"):
        app_hash(file)
