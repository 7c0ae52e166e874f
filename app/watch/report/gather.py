"""A run as a report shows it, put together from its events alone.

A report must be made of whatever a run has left: one that broke off, one of another app, one of another release. So a record
that lacks what is wanted is counted and left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import median_low
from typing import Any

from app.errors import UserError
from app.rounds.results import read_events
from app.watch.runs import EVENTS, Record, that_count

TRAIN, EVALUATE = "train", "evaluate"
SLOW = 2.0  # a reply is slow that takes so many times the median of its phase ...
SLOW_S = 1.0  # ... and so many seconds more


@dataclass(frozen=True)
class Reply:
    """A client's reply that was used. ``begun`` and ``seconds``: from sending to the reply."""

    round: int
    phase: str
    client: str
    begun: datetime
    seconds: float
    num_examples: int
    loss: float | None
    accuracy: float | None
    bytes_down: int
    bytes_up: int
    device: str
    update_length: float | None
    sha256: str


@dataclass(frozen=True)
class Fault:
    """Something that went wrong, or was mended: ``kind`` is the event's name.

    ``counts`` is false for what happened in a round that was cut off and run again.
    """

    time: datetime
    round: int
    phase: str
    client: str
    kind: str
    reason: str
    counts: bool = True


@dataclass(frozen=True)
class Round:
    """A round that was finished. ``ended`` is when."""

    number: int
    ended: datetime
    seconds: float
    loss: float | None
    accuracy: float | None
    train_loss: float | None
    client_accuracy: float | None
    trained: int
    evaluated: int
    epsilon: float | None


@dataclass(frozen=True)
class Likeness:
    """How alike the updates of one round are: ``agreement`` and ``pairs`` as in the event ``updates_compared``."""

    round: int
    clients: list[str]
    agreement: list[float | None]
    pairs: list[list[float | None]]
    numbers: int


@dataclass
class Run:
    """A run.

    Attributes:
        folder: of its results.
        started: its event ``run_started``; empty where there is none.
        finished: its event ``run_finished``; empty while it has none.
        undone: replies in rounds that were cut off and run again.
        asked: who was asked, by round and phase.
        clients: what people call them, in the order of their partitions; with their partition id, where it is known.
        wanted: clients that the run wanted.
        unreadable: records that lack what they should hold.
    """

    folder: Path
    started: Record = field(default_factory=dict)
    finished: Record = field(default_factory=dict)
    began: datetime | None = None
    ended: datetime | None = None
    rounds: list[Round] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    undone: list[Reply] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    likenesses: list[Likeness] = field(default_factory=list)
    asked: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    begun: dict[tuple[int, str], datetime] = field(default_factory=dict)
    clients: dict[str, int | None] = field(default_factory=dict)
    privacy: Mapping[str, Any] | None = None
    best: Mapping[str, Any] | None = None
    traffic: tuple[int, int] | None = None
    wanted: int = 0
    unreadable: int = 0

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def settings(self) -> Mapping[str, Any]:
        found = self.started.get("settings")
        return found if isinstance(found, Mapping) else {}

    @property
    def status(self) -> str:
        """As in the summary; ``running`` where the run has told no end."""
        return str(self.finished.get("status", "running"))

    @property
    def classes(self) -> list[str]:
        return [str(name) for name in self.started.get("classes") or []]

    @property
    def is_own(self) -> bool:
        """Whether it is of Bouquet's own app, whose data and model are known."""
        return bool(self.classes) and bool(self.started.get("shape"))

    def of_phase(self, number: int, phase: str) -> list[Reply]:
        """The replies that one phase used."""
        return [reply for reply in self.replies if (reply.round, reply.phase) == (number, phase)]

    def slow(self) -> set[tuple[int, str, str]]:
        """Round, phase and client of each reply that came long after most others."""
        phases: dict[tuple[int, str], list[Reply]] = {}
        for reply in self.replies:
            phases.setdefault((reply.round, reply.phase), []).append(reply)
        found = set()
        for replies in phases.values():
            middle = median_low(reply.seconds for reply in replies)
            limit = max(SLOW * middle, middle + SLOW_S)
            found |= {(r.round, r.phase, r.client) for r in replies if r.seconds > limit}
        return found


def gather(folder: Path) -> Run:
    """What the events in a run's folder tell. Raises UserError where they cannot be read."""
    try:
        return of_records(folder, read_events(folder / EVENTS))
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read: {error.strerror}; copy the run's folder again"
        ) from None


def of_records(folder: Path, told: Iterable[Record]) -> Run:
    """What these records tell, without a look at the folder."""
    every = [dict(record) for record in told]
    counted = {id(record) for record in that_count(every)}
    reader = _Reader(Run(folder), _names(every))
    for record in every:
        try:
            reader.take(record, counts=id(record) in counted)
        except (KeyError, TypeError, ValueError, AttributeError):
            reader.run.unreadable += 1
    return reader.done()


def _names(told: list[dict[str, Any]]) -> dict[int, tuple[str, int | None]]:
    """What each node is called in the end: a partition id becomes known with the first reply."""
    found: dict[int, tuple[str, int | None]] = {}
    for record in told:
        clients = [record.get("client"), *_list(record.get("clients"))]
        for client in clients:
            if not isinstance(client, Mapping) or not isinstance(client.get("node_id"), int):
                continue
            node, partition = client["node_id"], client.get("partition_id")
            before = found.get(node, ("", None))
            number = partition if isinstance(partition, int) else before[1]
            found[node] = str(client.get("name") or before[0]), number
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


class _Reader:
    """Takes one record after the other."""

    def __init__(self, run: Run, names: Mapping[int, tuple[str, int | None]]) -> None:
        self.run, self._names = run, names
        self._begun_undone: dict[tuple[int, str], datetime] = {}

    def take(self, record: Record, *, counts: bool) -> None:
        time = datetime.fromisoformat(record["time"])
        run = self.run
        run.began, run.ended = run.began or time, time
        if not counts:
            self._undone(record, time)
            return
        match record["event"]:
            case "run_started":
                run.started, run.finished = record, {}
                run.wanted = int(run.settings.get("min-available-nodes", 0))
            case "run_finished":
                run.finished = record
            case "clients_connected":
                run.wanted = max(run.wanted, len(record["clients"]))
                self._meet(record["clients"])
            case "phase_started":
                key = (int(record["round"]), str(record["phase"]))
                run.asked[key] = self._meet(record["clients"])
                run.begun[key] = time
            case "reply_accepted":
                run.replies.append(self._reply(record, time, run.begun))
            case "round_finished":
                self._round(record, time)
            case "updates_compared":
                run.likenesses.append(self._likeness(record))
            case event:
                self._other(event, record, time)

    def _undone(self, record: Record, time: datetime) -> None:
        """What a run did that was cut off, and does not count."""
        match record["event"]:
            case "phase_started":
                self._begun_undone[int(record["round"]), str(record["phase"])] = time
            case "reply_accepted":
                self.run.undone.append(self._reply(record, time, self._begun_undone))
            case event:
                before = len(self.run.faults)
                self._other(event, record, time)
                self.run.faults[before:] = [
                    replace(fault, counts=False) for fault in self.run.faults[before:]
                ]

    def _other(self, event: str, record: Record, time: datetime) -> None:
        """What went wrong, or was mended."""
        reason = str(record.get("reason", ""))
        match event:
            case "reply_rejected" | "reply_late" | "reply_limited" | "client_lost" | "client_returned":
                self._fault(record, time, self._label(record["client"]), reason)
            case "phase_retried":
                said = f"{record['accepted']} of {record['needed']} replies; try {record['attempt']} of {record['attempts']}"
                self._fault(record, time, "", said)
            case "run_resumed":
                damaged = _list(record.get("damaged"))
                more = f"; damaged checkpoints: {', '.join(map(str, damaged))}" if damaged else ""
                self._fault(record, time, "", f"went on after round {record['round']}{more}")
            case "average_refused" | "privacy_budget_spent":
                self._fault(record, time, "", reason)
            case "clients_awaited":
                missing = ", ".join(map(str, _list(record.get("missing")))) or "unknown"
                said = f"{record['connected']} of {record['wanted']} connected; missing: {missing}"
                self._fault(record, time, "", said)

    def done(self) -> Run:
        """The run, with its clients in the order of their partitions."""
        run = self.run
        last = len(run.clients)
        ordered = sorted(
            run.clients.items(), key=lambda each: (each[1] is None, each[1] if each[1] is not None else last)
        )
        run.clients = dict(ordered)
        return run

    def _fault(self, record: Record, time: datetime, client: str, reason: str) -> None:
        number, phase = int(record.get("round", 0)), str(record.get("phase", ""))
        self.run.faults.append(Fault(time, number, phase, client, str(record["event"]), reason))

    def _meet(self, clients: Iterable[Mapping[str, Any]]) -> list[str]:
        return [self._label(client) for client in clients]

    def _label(self, client: Mapping[str, Any]) -> str:
        """What people call a client; it is known from now on."""
        node = client["node_id"]
        name, partition = self._names.get(node, ("", None))
        label = name or (f"partition {partition}" if partition is not None else f"node {node}")
        if self.run.clients.get(label) is None:
            self.run.clients[label] = partition
        return label

    def _reply(self, record: Record, time: datetime, begun: Mapping[tuple[int, str], datetime]) -> Reply:
        key = (int(record["round"]), str(record["phase"]))
        return Reply(
            *key,
            client=self._label(record["client"]),
            begun=begun.get(key, time),
            seconds=float(record["seconds"]),
            num_examples=int(record["num_examples"]),
            loss=_number(record.get("loss")),
            accuracy=_number(record.get("accuracy")),
            bytes_down=int(record.get("bytes_down", 0)),
            bytes_up=int(record.get("bytes_up", 0)),
            device=str(record.get("device", "")),
            update_length=_number(record.get("update_length")),
            sha256=str(record.get("sha256", "")),
        )

    def _round(self, record: Record, time: datetime) -> None:
        run, privacy = self.run, record.get("privacy")
        run.privacy = privacy if isinstance(privacy, Mapping) else None
        run.best = record.get("best")
        traffic = record.get("traffic")
        run.traffic = (int(traffic[0]), int(traffic[1])) if traffic else run.traffic
        run.rounds.append(
            Round(
                number=int(record["round"]),
                ended=time,
                seconds=float(record["seconds"]),
                loss=_number(record.get("loss")),
                accuracy=_number(record.get("accuracy")),
                train_loss=_number(record.get("train_loss")),
                client_accuracy=_number(record.get("client_accuracy")),
                trained=int(record.get("trained", 0)),
                evaluated=int(record.get("evaluated", 0)),
                epsilon=_number((run.privacy or {}).get("epsilon")),
            )
        )

    def _likeness(self, record: Record) -> Likeness:
        return Likeness(
            int(record["round"]),
            self._meet(record["clients"]),
            [_number(each) for each in record["agreement"]],
            [[_number(each) for each in row] for row in record["pairs"]],
            int(record["numbers"]),
        )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
