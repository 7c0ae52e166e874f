"""A client runs only the apps that its operator has pinned."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import UserError
from app.fleet.apps import app_hash, build, is_allowed, parse_allowed

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


def test_only_listed_apps_are_allowed_and_an_empty_list_allows_all() -> None:
    good = hashlib.sha256(b"good").hexdigest()
    allowed = parse_allowed(f" {good.upper()}, {'0' * 64}\n")
    assert is_allowed(b"good", allowed)
    assert not is_allowed(b"evil", allowed)
    assert is_allowed(b"anything", parse_allowed(" "))


@pytest.mark.parametrize("text", ["abc", "0" * 63, f"{'0' * 64},typo", "sha256:" + "0" * 64])
def test_a_list_with_a_typing_error_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="BOUQUET_ALLOWED_APPS holds"):
        parse_allowed(text)


def test_a_folder_without_an_app_is_named(tmp_path: Path, project: Path) -> None:
    with pytest.raises(UserError, match=r"holds no pyproject\.toml"):
        app_hash(tmp_path)
    (project / "pyproject.toml").write_text('[project]\nname = "sample"\nversion = "1.0.0"\n')
    with pytest.raises(UserError, match="cannot be built into an app"):
        app_hash(project)
