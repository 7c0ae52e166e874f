"""`make run` runs what `.env` says."""

import json
import os
import subprocess
import sys
from pathlib import Path

from small_checkout import copy_checkout


def test_four_clients_and_two_rounds_in_dotenv_are_what_runs(tmp_path: Path) -> None:
    command = f'#!/bin/sh\nexec {sys.executable} -m app.cli "$@"\n'
    copy_checkout(tmp_path, ("Makefile", "pyproject.toml", "README.md", "LICENSE"), command)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "run", "MODE=local"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "results" / "latest" / "summary.json").read_text())
    assert (summary["num_clients"], summary["rounds"], summary["dataset"]) == (4, 2, "digits")
