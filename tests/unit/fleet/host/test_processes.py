"""Processes that the launcher starts, and what it tells of those that end."""

import sys
from pathlib import Path

import pytest

from app.errors import UserError
from app.fleet.host.processes import Processes


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('INFO :'); print('\\x1b[92mINFO \\x1b[0m: started'); raise SystemExit(3)", "ended with status 3: INFO : started"),
        ("import sys; print('error: the way out'); print('noise'); sys.exit(2)", "ended with status 2: error: the way out"),
        ("import os; print('here', flush=True); os.kill(os.getpid(), 9)", "was ended by SIGKILL: here"),
    ],
)  # fmt: skip
def test_a_process_that_has_ended_is_named_with_its_last_words(
    program: str, words: str, tmp_path: Path
) -> None:
    processes = Processes(tmp_path / "logs")
    processes.start("supernode-1", [sys.executable, "-c", program], {}).wait(20)
    with pytest.raises(UserError) as error:
        processes.require_running()
    assert str(error.value) == f"supernode-1 {words}"


def test_logs_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/logs cannot be written .*--results"):
        Processes(tmp_path / "file" / "logs").start("superlink", ["true"], {})
