"""Following the runs of a results folder for TensorBoard and MLflow, in a process or a thread of its own."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from app.watch.monitor.follow import Runs
from app.watch.runs import Record

LOOK_S = 2.0
AGAIN_S = 30.0  # after something could not be written


class Shows(Protocol):
    """Takes what runs tell."""

    errors: tuple[type[Exception], ...]

    def take(self, folder: Path, records: Sequence[Record]) -> None:
        """Take the new records of a run. Raises one of ``errors``, and can be called again with the same records."""


class Watching:
    """Hands the records of all runs to one that shows them, until it is stopped. What cannot be taken is tried again later.

    Args:
        name: what people call it, for the warning.
        shows: takes the records.
        runs: where they come from.
        warn: takes one line, when something goes wrong that was well before.
    """

    def __init__(self, name: str, shows: Shows, runs: Runs, warn: Callable[[str], None]) -> None:
        self._name, self._shows, self._runs, self._warn = name, shows, runs, warn
        self._left: dict[Path, list[Record]] = {}
        self._failing = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)

    def start(self) -> None:
        """Begin, in the background."""
        self._thread.start()

    def stop(self, patience_s: float) -> None:
        """Take what is still to be taken, once, and end. One that hangs is left after ``patience_s`` seconds."""
        self._stopped.set()
        self._thread.join(patience_s)

    def look(self) -> bool:
        """Take what is new. Whether all of it was taken."""
        for folder, records in self._runs.new():
            self._left.setdefault(folder, []).extend(records)
        for folder, records in list(self._left.items()):
            try:
                self._shows.take(folder, records)
            except self._shows.errors as error:
                if not self._failing:
                    reason = " ".join(str(error).split())[:200]
                    self._warn(f"warning: {self._name} does not take what runs tell: {reason}")
                self._failing = True
                return False
            del self._left[folder]
        self._failing = False
        return True

    def _watch(self) -> None:
        good = self.look()
        while not self._stopped.wait(LOOK_S if good else AGAIN_S):
            good = self.look()
        if not self._failing:
            self.look()
