"""What a run leaves behind: ``results/<run>/`` and the link ``results/latest``. ``docs/results.md`` describes it.

``events.jsonl`` holds every event. ``history.csv`` and ``summary.json`` are made from the events, so nothing in them comes
from anywhere else. Everything is on disk after every round.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from safetensors.numpy import save

from app.files import link_latest, write_atomically
from app.rounds import events
from app.rounds.participation import Participation

MODEL, BEST_MODEL, HISTORY = "model.safetensors", "model-best.safetensors", "history.csv"
HISTORY_COLUMNS = (
    "round", "phase", "partition_id", "node_id", "num_examples", "loss", "accuracy", "seconds", "bytes_down", "bytes_up",
)  # fmt: skip


@dataclass
class Summary:
    """``summary.json``. Times in seconds; accuracy and loss of the global model on the test split.

    ``client_accuracy_per_round`` is the mean over the clients that evaluated, weighted by their examples.
    ``bytes_per_client_and_round`` are what the SuperLink counted on the wire, divided by clients and rounds; with a stock
    SuperLink and in a simulation, the records that were sent and received.
    """

    participation: str = ""
    status: str = "running"
    reason: str = ""
    run: str = ""
    flower_run: str = ""
    mode: str = ""
    device: str = "cpu"
    dataset: str = ""
    num_clients: int = 0
    rounds: int = 0
    accuracy: float | None = None
    loss: float | None = None
    wall_s: float = 0.0
    round_s: list[float] = field(default_factory=list)
    accuracy_per_round: list[float] = field(default_factory=list)
    client_accuracy_per_round: list[float | None] = field(default_factory=list)
    best: dict[str, Any] | None = None
    resumed_from: list[int] = field(default_factory=list)
    rounds_missed: dict[str, int] = field(default_factory=dict)
    late_replies: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    bytes_per_client_and_round: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    evaluation: list[dict[str, Any]] = field(default_factory=list)
    privacy: dict[str, Any] | None = None
    metrics: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=dict
    )  # of another app: by phase, round, name


def model_bytes(arrays: ArrayRecord) -> bytes:
    """A model as a safetensors file, under its state-dict names."""
    return save({name: np.ascontiguousarray(array.numpy()) for name, array in arrays.items()})


class ResultsFolder:
    """One run's folder, and the link to it."""

    def __init__(self, root: Path, run: str, *, is_latest: bool = True) -> None:
        self.path = root / run
        self.path.mkdir(parents=True, exist_ok=True)
        if is_latest:
            link_latest(self.path)

    def write_model(self, model: bytes, *, is_best: bool) -> None:
        """Write ``model.safetensors``, the global model, and ``model-best.safetensors`` where no round had a better one."""
        write_atomically(self.path / MODEL, model)
        if is_best:
            write_atomically(self.path / BEST_MODEL, model)

    def forget_after(self, number: int) -> None:
        """Leave out the rows of rounds after ``number``, which are run again. Raises OSError."""
        file = self.path / HISTORY
        if file.exists():
            head, *rows = file.read_bytes().splitlines(keepends=True)
            kept = [row for row in rows if row.endswith(b"\n") and int(row.partition(b",")[0]) <= number]
            write_atomically(file, b"".join([head, *kept]))


class GrowingFile:
    """A file that grows by whole lines. What a full disk refused is written first with the next ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = b""
        self._end = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0  # of the last whole line

    @property
    def is_empty(self) -> bool:
        """Whether it has no line yet."""
        return not self._end and not self._waiting

    def append(self, lines: bytes) -> None:
        """Write ``lines``, which end with a line break. Raises OSError, and keeps them for the next call."""
        self._waiting += lines
        if not self._waiting:
            return
        with self.path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)  # less than was written where somebody removed the file
            file.truncate(min(self._end, size))  # without a line that was cut short
            file.write(self._waiting)
            file.flush()
            self._end, self._waiting = file.tell(), b""


class EventLog:
    """``events.jsonl``: every event, one JSON object a line."""

    def __init__(self, folder: Path) -> None:
        self._file = GrowingFile(folder / "events.jsonl")

    def take(self, event: events.Event, record: dict[str, Any]) -> None:
        """Append the record."""
        self._file.append(json.dumps(finite(record), allow_nan=False).encode() + b"\n")


def read_events(file: Path) -> Iterator[dict[str, Any]]:
    """The records of an ``events.jsonl``."""
    return records_in(file.read_bytes())


def records_in(content: bytes) -> Iterator[dict[str, Any]]:
    """The records in lines of JSON; lines that were cut short are left out."""
    for line in content.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


class History:
    """``history.csv``: a row for each round, phase and client."""

    def __init__(self, folder: Path) -> None:
        self._file = GrowingFile(folder / HISTORY)

    def take(self, event: events.Event, record: dict[str, Any]) -> None:
        """Append a row for an accepted reply, or for the server's own evaluation."""
        self._file.append(self._lines(event, record))

    def _lines(self, event: events.Event, record: dict[str, Any]) -> bytes:
        match event:
            case events.ReplyAccepted():
                row = {**record, "node_id": event.client.node_id, "partition_id": event.client.partition_id}
            case events.RoundFinished():
                row = {**record, "phase": "server", "seconds": None}
            case _:
                return b""
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        if self._file.is_empty:
            rows.writerow(HISTORY_COLUMNS)
        rows.writerow([_short(row.get(name)) for name in HISTORY_COLUMNS])
        return text.getvalue().encode()


class SummaryFile:
    """``summary.json``: the run so far. ``summary`` is that of a new run, or of the rounds before one that goes on."""

    def __init__(self, folder: Path, summary: Summary) -> None:
        self._file, self.summary = folder / "summary.json", summary
        self.participation = Participation(summary.rounds_missed, summary.rounds)
        self._wall_before = summary.wall_s
        before = summary.bytes_per_client_and_round
        share = max(1, summary.num_clients) * summary.rounds
        self._before = [before.get(way, 0.0) * share for way in ("down", "up")]
        self._bytes = [0, 0]
        self._stale = False  # there is more in the summary than in the file

    def take(self, event: events.Event, record: dict[str, Any]) -> None:
        """Take the event into the summary; write it after every round and at the end."""
        summary = self.summary
        self.participation.take(event)
        match event:
            case events.RunStarted():
                summary.flower_run, summary.mode = event.flower_run, event.mode
                summary.dataset, summary.settings = event.dataset, event.settings
                summary.status = "running"
            case events.RunResumed():
                summary.resumed_from.append(event.round)
                self._stale = True
            case events.ClientsConnected():
                summary.num_clients = len(event.clients)
            case events.ReplyAccepted(round=0):
                summary.evaluation.append(_evaluation(event))
            case events.ReplyAccepted(device="cuda", phase="train"):
                summary.device = "cuda"
            case events.ModelEvaluated():
                summary.loss, summary.accuracy = event.loss, event.accuracy
                summary.participation = self.participation.sentence()
            case events.ReplyRejected() | events.ReplyLate():
                summary.failures.append(_failure(event))
            case events.PhaseFinished():
                self._bytes[0] += event.bytes_down
                self._bytes[1] += event.bytes_up
                summary.late_replies += event.arrived_late
            case events.RoundFinished():
                self._add_round(event)
                self._stale = True
            case events.RunFinished():
                summary.status, summary.reason = event.status, event.reason
                summary.wall_s = round(self._wall_before + event.seconds, 3)
                self._stale = True
        if self._stale:
            self._write()
            self._stale = False

    def _add_round(self, event: events.RoundFinished) -> None:
        summary = self.summary
        summary.participation = self.participation.sentence()
        summary.rounds, summary.loss, summary.accuracy = event.round, event.loss, event.accuracy
        summary.round_s.append(round(event.seconds, 3))
        summary.wall_s = round(sum(summary.round_s), 3)
        summary.accuracy_per_round.append(round(event.accuracy, 6))
        clients = event.client_accuracy
        summary.client_accuracy_per_round.append(None if clients is None else round(clients, 6))
        summary.best = event.best
        summary.privacy = event.privacy
        share = max(1, summary.num_clients) * max(1, len(summary.round_s))
        now = event.traffic or self._bytes
        down, up = (before + more for before, more in zip(self._before, now, strict=True))
        summary.bytes_per_client_and_round = {"down": round(down / share), "up": round(up / share)}

    def _write(self) -> None:
        told = asdict(self.summary)
        del told["metrics"]
        text = json.dumps(finite(told), indent=2, allow_nan=False) + "\n"
        write_atomically(self._file, text.encode())


def _failure(event: events.ReplyRejected | events.ReplyLate) -> dict[str, Any]:
    client = event.client
    return {
        "round": event.round,
        "phase": event.phase,
        "partition_id": client.partition_id,
        "client": client.label,
        "node_id": client.node_id,
        "reason": event.reason,
    }


def _evaluation(event: events.ReplyAccepted) -> dict[str, Any]:
    """What one client found of a model."""
    client = event.client
    return {
        "client": client.label,
        "partition_id": client.partition_id,
        "num_examples": event.num_examples,
        "loss": event.loss,
        "accuracy": event.accuracy,
    }


def finite(value: Any) -> Any:
    """``value`` with null for what JSON has no number for: the loss of a model that diverged."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
