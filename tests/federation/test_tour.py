"""The whole of ``bouquet tour``, with its federation."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.tutorial.tour import ALONE, BY_HAND, FEDERATION

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.federation
def test_the_whole_tour(tmp_path: Path) -> None:
    folder = tmp_path / "tour"
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "tour", "--out", str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    headings = re.findall(r"^(\d)\. ", done.stdout, re.MULTILINE)
    assert headings == ["1", "2", "3", "4", "5", "6"]
    files = re.findall(r"app/\w+(?:/\w+)*\.py", done.stdout)
    assert len(set(files)) >= 8 and all((ROOT / file).is_file() for file in files)
    last = {name: float(value) for name, value in re.findall(r"│ (\w.*?) +│ (0\.\d{4}) │", done.stdout)}
    assert list(last)[-3:] == [ALONE, BY_HAND, FEDERATION]
    assert last[ALONE] < last[FEDERATION], "together they learn more than one alone"
    by_hand, by_wire = map(float, re.findall(r"by hand ([\d.]+), by gRPC ([\d.]+)", done.stdout)[0])
    assert by_hand == pytest.approx(by_wire, abs=0.005)
    assert (folder / "latest" / "model.safetensors").is_file()
    for process in psutil.process_iter():
        try:
            assert str(folder) not in " ".join(process.environ().values())
        except psutil.Error:
            continue
    for command in re.findall(r"by itself: bouquet (\w+)", done.stdout):
        helped = subprocess.run(
            [sys.executable, "-m", "app.cli", command, "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert helped.returncode == 0, command
