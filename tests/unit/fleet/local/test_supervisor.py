"""A process that has died is started again, and one that dies again and again ends the federation."""

import re
import signal
import sys
import time
from pathlib import Path

import pytest

from app.fleet.host.processes import Processes
from app.fleet.local import supervisor
from app.fleet.local.supervisor import Supervisor


@pytest.mark.parametrize(
    ("program", "starts", "reason"),
    [
        (
            "print('memory', flush=True); import os; os.kill(os.getpid(), 9)",
            3,
            "client was ended by SIGKILL: memory .*3 times in a row",
        ),
        ("print('error: wrong key'); raise SystemExit(2)", 1, "client ended with status 2: error: wrong key"),
    ],
    ids=["killed again and again", "wrong input"],
)
def test_it_gives_up_with_the_last_words(
    program: str, starts: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_S", 0.01)
    processes, begun = Processes(tmp_path), []

    def start(name: str) -> None:
        begun.append(name)
        processes.start(name, [sys.executable, "-c", program], {})

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as `launch` has it
    watching = Supervisor(processes, start, lambda _: None)
    start("client")
    try:
        with pytest.raises(KeyboardInterrupt):
            watching.start()
            time.sleep(60)
        assert watching.error is not None and re.match(reason, str(watching.error))
        assert len(begun) == starts
    finally:
        signal.signal(signal.SIGTERM, before)
        watching.stop()
        processes.stop()
