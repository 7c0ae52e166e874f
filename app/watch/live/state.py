"""What the live view shows of a run, taken from its events one by one."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from statistics import fmean

from app.rounds import events

LAST_ROUNDS = 5  # whose time tells how long the next ones take


class Doing(StrEnum):
    """What a client does."""

    WAITING = "waiting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    DONE = "done"
    LATE = "late"
    LEFT_OUT = "left out"
    LOST = "lost"


WORKING = (Doing.TRAINING, Doing.EVALUATING)
IN_TROUBLE = (Doing.LOST, Doing.LATE, Doing.LEFT_OUT)


@dataclass
class ClientView:
    """One client.

    Attributes:
        doing: what it does in this phase.
        since: when it began that.
        examples, loss, accuracy, seconds: of its last reply; ``seconds`` is from sending to the reply.
        failures: replies of it that were left out, or did not come.
        reason: why the last one was.
    """

    doing: Doing = Doing.WAITING
    since: datetime | None = None
    examples: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    seconds: float | None = None
    failures: int = 0
    reason: str = ""


@dataclass
class RunView:
    """A run, as far as its events have been taken.

    Attributes:
        name, mode, dataset: of the run.
        rounds: that are asked for; 0 while unknown.
        done: the last round that is finished.
        phase: that is under way, ``train`` or ``evaluate``; empty between phases.
        asked: names of the clients of this phase.
        begun, latest: when the run began, or went on, and its last event.
        round_begun: when the round did that is under way.
        accuracies: of the global model, by round; null where it has none.
        down, up: bytes that all clients were sent and have sent.
        status: how it ended; empty before that.
        clients: by name.
    """

    name: str = ""
    mode: str = ""
    dataset: str = ""
    rounds: int = 0
    done: int = 0
    phase: str = ""
    asked: set[str] = field(default_factory=set)
    begun: datetime | None = None
    latest: datetime | None = None
    round_begun: datetime | None = None
    seconds: list[float] = field(default_factory=list)
    accuracies: list[float | None] = field(default_factory=list)
    loss: float | None = None
    best: tuple[int, float] | None = None
    down: int = 0
    up: int = 0
    status: str = ""
    reason: str = ""
    participation: str = ""
    waits_for: str = ""
    clients: dict[str, ClientView] = field(default_factory=dict)
    _labels: dict[int, str] = field(default_factory=dict)

    @property
    def replied(self) -> int:
        """How many clients of this phase the server does not wait for any more."""
        through = (Doing.DONE, Doing.LATE, Doing.LEFT_OUT)
        return sum(self.clients[name].doing in through for name in self.asked if name in self.clients)

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return bool(self.status)

    def left_s(self, now: datetime) -> float | None:
        """About how many seconds the run still takes; None while nothing tells."""
        if self.ended or not self.seconds or not self.rounds:
            return None
        each = fmean(self.seconds[-LAST_ROUNDS:])
        gone = (now - self.round_begun).total_seconds() if self.round_begun else 0.0
        return max(0.0, each * (self.rounds - self.done) - min(gone, each))

    def take(self, event: events.Event, time: datetime) -> None:
        """Take one more event, which happened at ``time``."""
        self.latest = time
        match event:
            case events.RunStarted():
                self.mode, self.dataset = event.mode, event.dataset
                self.rounds = _whole(event.settings.get("num-server-rounds"))
                self.begun, self.status, self.reason, self.phase = time, "", "", ""
            case events.RunResumed():
                self._go_back_to(event.round)
            case events.ClientsAwaited():
                missing = f"; missing: {', '.join(event.missing)}" if event.missing else ""
                self.waits_for = f"{event.connected} of {event.wanted} clients connected{missing}"
            case events.ClientsConnected():
                self.waits_for = ""
                for client in event.clients:
                    self._client(client)
            case events.PhaseStarted():
                self._begin_phase(event, time)
            case events.ReplyReceived():
                view = self._client(event.client)
                view.doing, view.seconds = Doing.DONE, event.seconds
            case events.ReplyAccepted():
                self._accept(event)
            case events.ReplyRejected():
                self._fail(event.client, Doing.LEFT_OUT, event.reason)
            case events.ReplyLate():
                self._fail(event.client, Doing.LATE, event.reason)
            case events.ClientLost():
                self._client(event.client).doing = Doing.LOST
            case events.ClientReturned():
                view = self._client(event.client)
                view.doing, view.since = _work_of(event.phase), time
            case events.PhaseFinished():
                self.phase = ""
                self.down, self.up = self.down + event.bytes_down, self.up + event.bytes_up
            case events.RoundFinished():
                self._finish_round(event)
            case events.RunFinished():
                self.status, self.reason, self.phase = event.status, event.reason, ""
                self.participation = event.participation

    def _client(self, client: events.Client) -> ClientView:
        before = self._labels.get(client.node_id, client.label)
        if before != client.label:  # more is known of it now
            self.clients[client.label] = self.clients.pop(before, ClientView())
            self.asked = {client.label if name == before else name for name in self.asked}
        self._labels[client.node_id] = client.label
        return self.clients.setdefault(client.label, ClientView())

    def _begin_phase(self, event: events.PhaseStarted, time: datetime) -> None:
        self.phase, self.asked = event.phase, {client.label for client in event.clients}
        if event.phase == "train" or self.round_begun is None:
            self.round_begun = time
        for client in self.clients.values():
            client.doing = Doing.WAITING
        for each in event.clients:
            client = self._client(each)
            client.doing, client.since = _work_of(event.phase), time

    def _accept(self, event: events.ReplyAccepted) -> None:
        client = self._client(event.client)
        client.doing, client.examples, client.seconds = Doing.DONE, event.num_examples, event.seconds
        client.loss, client.accuracy = event.loss, event.accuracy

    def _fail(self, of: events.Client, doing: Doing, reason: str) -> None:
        client = self._client(of)
        client.doing, client.reason, client.failures = doing, reason, client.failures + 1

    def _finish_round(self, event: events.RoundFinished) -> None:
        self.done, self.rounds, self.loss = event.round, event.rounds, event.loss
        self.seconds.append(event.seconds)
        self.accuracies.append(event.accuracy)
        self.round_begun = self.latest
        if event.best and isinstance(event.best.get("value"), int | float):
            self.best = event.best["round"], event.best["value"]

    def _go_back_to(self, number: int) -> None:
        """What was done after round ``number`` does not count."""
        kept = max(0, len(self.accuracies) - max(0, self.done - number))
        del self.accuracies[kept:], self.seconds[kept:]
        self.done, self.round_begun = number, self.latest


def time_of(record: object) -> datetime:
    """When a record was written; now, where it does not say."""
    try:
        return datetime.fromisoformat(str(record)).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)


def _work_of(phase: str) -> Doing:
    return Doing.TRAINING if phase == "train" else Doing.EVALUATING


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
