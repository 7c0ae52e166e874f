"""Whoever is killed, what a run has started ends and its folder goes."""

import os
import subprocess
import sys
from pathlib import Path

from app.fleet.local import guard

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
)


def test_a_process_that_ignores_sigterm_ends_and_the_folder_goes(tmp_path: Path) -> None:
    folder = tmp_path / "bouquet-run"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        env={**os.environ, "FLWR_HOME": str(folder / "flwr")},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline()
        watch = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(folder)], stdin=subprocess.PIPE
        )
        assert process.poll() is None and folder.is_dir()
        assert watch.stdin is not None
        watch.stdin.close()
        assert watch.wait(60) == 0
        assert process.wait(10) < 0 and not folder.exists()
    finally:
        process.kill()
        process.communicate()
