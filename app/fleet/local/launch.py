"""What ``up`` and ``simulate`` share: processes and files that exist for one run only."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from app.environment import DATA_VARIABLE
from app.fleet.deployment import DATASET_VARIABLE
from app.fleet.host.processes import Processes
from app.fleet.local import guard
from app.fleet.runs.submit import Outcome

START_TIMEOUT_S = 120.0
PREFIX = "bouquet-"
# The path of a socket may have 107 characters, and Ray adds 66 to the path of its folder.
LONGEST_TEMPORARY = 40


class Data(NamedTuple):
    """What a federation on this machine learns from.

    Attributes:
        store: the prepared data store; None for an app that was given none.
        dataset: a folder or file for an app that reads it itself.
    """

    store: Path | None = None
    dataset: Path | None = None

    def variables(self) -> dict[str, str]:
        """What the apps must find in their environment."""
        return {
            DATA_VARIABLE: str(self.store or ""),
            DATASET_VARIABLE: str(self.dataset or ""),
        }


@dataclass
class Launch:
    """One run on this machine.

    Attributes:
        home: a folder of its own, which other users cannot enter.
        processes: what it has started.
        outcome: how it ended; None before that.
    """

    home: Path
    processes: Processes
    outcome: Outcome | None = None


@contextmanager
def launch(results: Path, echo: Callable[[str], None]) -> Iterator[Launch]:
    """Take everything down after the body, whatever happens, and say where the logs are unless it finished.

    Where this process is killed, ``guard.py`` takes everything down.

    SIGTERM raises KeyboardInterrupt from here on, as Ctrl-C does.

    Args:
        results: folder of all results, where the logs go.
        echo: takes each line for the person.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    short = len(tempfile.gettempdir()) <= LONGEST_TEMPORARY
    home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=None if short else "/tmp"))
    begun = f"{time.strftime('%Y%m%d-%H%M%S')}-{home.name.removeprefix(PREFIX)}"
    run = Launch(home, Processes(results / "logs" / begun))
    watch = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, str(home)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield run
    finally:
        run.processes.stop()
        watch.communicate()  # it ends what is left, and removes the folder
        if run.outcome is None or not run.outcome.finished:
            echo(f"the logs are in {run.processes.logs}")
