"""The events of all runs of a results folder, as they are written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.watch.runs import EVENTS, LATEST, Record, Tail


@dataclass
class _Run:
    tail: Tail
    size: int = 0


class Runs:
    """The runs of a results folder.

    Args:
        results: the folder; it may not be there yet.
        since: leaves runs out whose events were last written before this time (seconds since 1970).
    """

    def __init__(self, results: Path, since: float = 0.0) -> None:
        self._results, self._since = results, since
        self._runs: dict[str, _Run] = {}

    def new(self) -> Iterator[tuple[Path, list[Record]]]:
        """The runs that have new events since the last call, eldest first, each with its folder."""
        for file in sorted(self._results.glob(f"*/{EVENTS}")):
            name = file.parent.name
            if name == LATEST:
                continue
            try:
                found = file.stat()
            except OSError:  # it was removed just now
                continue
            if name not in self._runs and found.st_mtime < self._since:
                continue
            run = self._runs.setdefault(name, _Run(Tail(file)))
            if found.st_size != run.size:
                run.size = found.st_size
                if records := run.tail.new():
                    yield file.parent, records
