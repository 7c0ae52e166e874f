"""What an app asks for is added once, from where pip is told to look, and nothing of what is here changes."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from wheels import make_wheel

from app.errors import UserError
from app.fleet.dependencies.environment import make, require


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes for its index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _manifest(*dependencies: str) -> dict[str, Any]:
    return {"project": {"dependencies": list(dependencies)}}


def _make(tmp_path: Path, *dependencies: str) -> tuple[Path | None, Sequence[str]]:
    lines: list[str] = []
    return make(_manifest(*dependencies), lines.append, tmp_path / "kept"), lines


def test_only_what_is_not_here_is_added_and_it_is_kept(wheels: Path, tmp_path: Path) -> None:
    make_wheel(wheels, "petals", requires=["stems>=2", "numpy"])
    make_wheel(wheels, "stems", "2.5")
    asked = ("petals>=1", "numpy", "flwr[simulation]>=1.39")
    folder, lines = _make(tmp_path, *asked)
    assert folder is not None and lines == ["adding what the app asks for: petals>=1"]
    assert {file.name for file in folder.glob("*.py")} == {"petals.py", "stems.py"}
    code = "import petals, stems; print(petals.version, stems.version)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    assert done.stdout == "1.0 2.5\n", done.stderr
    shutil.rmtree(wheels)
    assert _make(tmp_path, *reversed(asked)) == (folder, [])
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_an_app_that_asks_for_nothing_more_gets_no_folder(tmp_path: Path) -> None:
    assert _make(tmp_path, "numpy") == (None, [])
    folder, lines = _make(tmp_path, "numpy<1")
    assert folder is None
    assert lines == [
        f"warning: the app asks for numpy<1, and here is numpy {version('numpy')}: it runs with that"
    ]


def test_what_cannot_be_added_is_named_with_both_sides(wheels: Path, tmp_path: Path) -> None:
    make_wheel(wheels, "petals", requires=["numpy<1"])
    words = rf"the app asks for petals 1\.0, which needs numpy<1, and here is numpy {version('numpy')}"
    with pytest.raises(UserError, match=words):
        _make(tmp_path, "petals")
    with pytest.raises(UserError, match=r"the app asks for roots>=3, which is not to be found"):
        _make(tmp_path, "roots>=3")
    assert not list((tmp_path / "kept").iterdir())


def test_what_is_missing_is_named_with_the_way_out() -> None:
    with pytest.raises(
        UserError, match=r"asks for petals>=1, which is not installed here: .*bouquet image --app"
    ):
        require(_manifest("petals>=1"), print)
