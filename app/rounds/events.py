"""The events of a run: typed records, from which everything that is shown, stored or measured is made.

A record has its own fields; the stream adds ``event`` (its name), ``time`` (UTC, ISO 8601), ``run`` and ``schema`` when it
is emitted. ``docs/results.md`` describes each field. A new field leaves the schema as it is; a changed meaning raises it.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

SCHEMA = 1


@dataclass(frozen=True)
class Client:
    """Who a client is: the name it was enrolled under, else its partition id, else its node id."""

    node_id: int
    partition_id: int | None = None
    name: str = ""

    @property
    def label(self) -> str:
        """What people read."""
        if self.name:
            return self.name
        return f"node {self.node_id}" if self.partition_id is None else f"partition {self.partition_id}"


@dataclass(frozen=True)
class Event:
    """One record of a run."""

    @classmethod
    def name(cls) -> str:
        """``RoundFinished`` is called ``round_finished``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins."""

    flower_run: str
    mode: str
    dataset: str
    checksum: str
    shape: list[int]
    classes: list[str]
    settings: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class RunResumed(Event):
    """A run goes on after ``round``; what it did after that round before does not count. ``damaged`` checkpoints were left out."""

    round: int
    checkpoint: str
    damaged: list[str]


@dataclass(frozen=True)
class RunPassedOver(Event):
    """The run in ``folder`` has not ended and does not go on, because another app began it; ``differences`` in words."""

    folder: str
    differences: list[str]


@dataclass(frozen=True)
class CheckpointWritten(Event):
    """The state after ``round`` is on disk; checkpoints of the rounds ``kept`` are there."""

    round: int
    folder: str
    bytes: int
    seconds: float
    kept: list[int]


@dataclass(frozen=True)
class ClientsAwaited(Event):
    """Fewer clients are connected than the run wants; ``missing`` names those that are known."""

    connected: int
    wanted: int
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ClientsConnected(Event):
    """The clients that the run begins with are connected."""

    clients: list[Client]


@dataclass(frozen=True)
class PhaseStarted(Event):
    """The server has chosen the clients of a phase, ``train`` or ``evaluate``."""

    round: int
    phase: str
    clients: list[Client]


@dataclass(frozen=True)
class ReplyReceived(Event):
    """A client's reply has come; whether it is used is told later."""

    round: int
    phase: str
    client: Client
    seconds: float


@dataclass(frozen=True)
class ReplyAccepted(Event):
    """A client's reply goes into the average.

    With ``privacy``, ``update_length`` is not told. ``sha256`` is of the reply with all its objects.
    """

    round: int
    phase: str
    client: Client
    num_examples: int
    loss: float | None
    accuracy: float | None
    seconds: float
    bytes_down: int
    bytes_up: int
    device: str
    update_length: float | None = None
    sha256: str = ""


@dataclass(frozen=True)
class UpdatesCompared(Event):
    """How alike the updates of a round are; not told with ``privacy``."""

    round: int
    clients: list[Client]
    agreement: list[float | None]
    pairs: list[list[float | None]]
    numbers: int


@dataclass(frozen=True)
class ReplyRejected(Event):
    """A client's reply is left out."""

    round: int
    phase: str
    client: Client
    reason: str


@dataclass(frozen=True)
class ReplyLimited(Event):
    """A client's reply goes into the average with a smaller number than it claimed."""

    round: int
    phase: str
    client: Client
    reason: str


@dataclass(frozen=True)
class ReplyLate(Event):
    """A client did not reply in time, or its message was not taken."""

    round: int
    phase: str
    client: Client
    reason: str


@dataclass(frozen=True)
class ClientLost(Event):
    """The SuperLink takes a client for offline that has not replied yet."""

    round: int
    phase: str
    client: Client


@dataclass(frozen=True)
class ClientReturned(Event):
    """A lost client is back before the phase has ended, and is asked again."""

    round: int
    phase: str
    client: Client


@dataclass(frozen=True)
class PhaseRetried(Event):
    """A phase with too few usable replies is tried again with the clients that are there."""

    round: int
    phase: str
    accepted: int
    needed: int
    attempt: int
    attempts: int


@dataclass(frozen=True)
class PhaseFinished(Event):
    """The replies of a phase are in. Bytes are sums over all clients.

    ``arrived_late``: replies to earlier phases that came in this one, and were left out.
    """

    round: int
    phase: str
    accepted: int
    rejected: int
    late: int
    seconds: float
    bytes_down: int
    bytes_up: int
    arrived_late: int = 0


@dataclass(frozen=True)
class AverageRefused(Event):
    """The strategy's result is no model; the model of before is kept."""

    round: int
    reason: str


@dataclass(frozen=True)
class RoundFinished(Event):
    """A round is over; ``loss`` and ``accuracy`` are the global model's on the server's test split."""

    round: int
    rounds: int
    seconds: float
    loss: float
    accuracy: float
    train_loss: float | None
    client_accuracy: float | None
    trained: int
    evaluated: int
    traffic: tuple[int, int] | None
    privacy: dict[str, Any] | None
    best: dict[str, Any] | None = None


@dataclass(frozen=True)
class ModelEvaluated(Event):
    """The clients have evaluated a model that nobody trained here; each told its part as a reply of round 0.

    ``loss`` and ``accuracy`` are those on the server's test split, ``client_accuracy`` is the clients' weighted mean.
    """

    model: str
    loss: float
    accuracy: float
    client_accuracy: float | None
    evaluated: int


@dataclass(frozen=True)
class PrivacyBudgetSpent(Event):
    """A round is not run, because it would exceed ``max-epsilon``."""

    round: int
    reason: str


@dataclass(frozen=True)
class RunFinished(Event):
    """A run is over: ``status`` is ``completed``, ``subset`` (of the clients), ``interrupted``, or ``failed`` with the reason."""

    status: str
    rounds: int
    seconds: float
    loss: float | None = None
    accuracy: float | None = None
    reason: str = ""
    participation: str = ""


class Sink(Protocol):
    """Takes the events of a run, each with its stamped record."""

    def take(self, event: Event, record: dict[str, Any]) -> None:
        """Use one event. An OSError is reported once, and the run goes on."""


@dataclass
class Stream:
    """Stamps the events of one run and hands them to its sinks.

    A sink that fails, such as a file on a full disk, does not stop training. It is reported once and tried again with
    the next event; ``failing`` holds what is still wrong, so that the run does not end as a success.
    """

    run: str
    sinks: list[Sink]
    failing: dict[str, str] = field(default_factory=dict)

    def emit(self, event: Event) -> None:
        """Hand ``event`` to every sink."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        stamp = {"event": event.name(), "time": now, "run": self.run, "schema": SCHEMA}
        record = stamp | asdict(event)
        for sink in self.sinks:
            self.guard(type(sink).__name__, partial(sink.take, event, record))

    def guard(self, what: str, write: Callable[[], None]) -> None:
        """Run ``write``; note an OSError under ``what``, and print it when it is new."""
        try:
            write()
        except OSError as error:
            reason = f"{error.filename or what}: {error.strerror or error}"
            if what not in self.failing:
                print(f"warning: results cannot be written ({reason}); training goes on", flush=True)
            self.failing[what] = reason
        else:
            self.failing.pop(what, None)


def labels(clients: Iterable[Client]) -> dict[int, str]:
    """What people read of each client, by node id."""
    return {client.node_id: client.label for client in clients}
