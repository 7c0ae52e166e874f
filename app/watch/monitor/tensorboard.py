"""The runs of a results folder as TensorBoard reads them: event files, made from each run's own events.

A run is one line, and each of its clients is another, below it. A round is a step, and a point has the time of its event.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from app.watch.monitor.scalars import MOST_CLIENTS, points
from app.watch.runs import Record, that_count

# TensorBoard looks for `tfevents` in a name, and takes the files of a folder in the order of their names.
FILE = "events.out.tfevents.0.bouquet"


class EventFiles:
    """Writes the event files.

    Args:
        logs: TensorBoard's ``--logdir``. What stands there of a run is made anew when its first events come.
    """

    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._clients: dict[str, set[str]] = {}

    def take(self, folder: Path, records: Sequence[Record]) -> None:
        """Write what a run has told since the last time. Raises OSError."""
        run = folder.name
        if run not in self._clients:
            self._clients[run] = set()
            for file in (self._logs / run).rglob(FILE):
                file.unlink()
            records = that_count(records)
        found: dict[str, list[event_pb2.Event]] = defaultdict(list)
        for record in records:
            with suppress(KeyError, TypeError, ValueError, AttributeError):  # a record of another form
                self._add(run, record, found)
        for client, events in found.items():
            _append(self._logs / run / _file_name(client), events)

    def _add(self, run: str, record: Record, found: dict[str, list[event_pb2.Event]]) -> None:
        when = datetime.fromisoformat(record["time"]).timestamp()
        if record["event"] == "run_started":
            summary = text_pb("run", _as_table(record))
            found[""].append(event_pb2.Event(wall_time=when, step=0, summary=summary))
        if record["event"] == "run_resumed":
            # What the lines show of later rounds does not count.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            for client in ("", *self._clients[run]):
                again = event_pb2.Event(wall_time=when, step=int(record["round"]) + 1, session_log=start)
                found[client].append(again)
        for point in points(record):
            known = self._clients[run]
            if point.client and point.client not in known:
                if len(known) >= MOST_CLIENTS:
                    continue
                known.add(point.client)
            value = summary_pb2.Summary.Value(tag=point.tag, simple_value=point.value)
            summary = summary_pb2.Summary(value=[value])
            found[point.client].append(event_pb2.Event(wall_time=when, step=point.step, summary=summary))


def _append(folder: Path, events: Iterable[event_pb2.Event]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    begins = not file.exists()
    with file.open("ab") as opened:
        writer = RecordWriter(opened)
        if begins:
            writer.write(event_pb2.Event(file_version="brain.Event:2").SerializeToString())
        for event in events:
            writer.write(event.SerializeToString())


def _file_name(client: str) -> str:
    """A client's folder below its run's; that of the run itself for no client."""
    return re.sub(r"[^A-Za-z0-9._ -]", "_", client).lstrip(".")[:100]


def _as_table(record: Record) -> str:
    """What a run was begun with, as a table in Markdown."""
    told: dict[str, Any] = {name: record.get(name) for name in ("mode", "dataset", "checksum")}
    told |= {str(name): value for name, value in sorted(dict(record.get("settings") or {}).items())}
    rows = (f"| {name} | {str(value).replace('|', '/')} |" for name, value in told.items())
    return "\n".join(["| setting | value |", "|---|---|", *rows])
