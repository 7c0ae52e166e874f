"""The rounds of a run: Flower's strategies choose and average, this loop sends, waits, screens and emits events.

It does what ``Strategy.start`` does, in the same order for the strategy, with four differences. Replies that cannot be
right are left out. A phase ends by a rule, and one with too few usable replies is tried again. Replies are averaged in
the order of their partition ids, so that a seeded run repeats bit for bit. The server evaluates the global model while
the clients evaluate it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.exception import PrivacyBudgetExhausted

from app.errors import RunStopped
from app.packing.arrays import ARRAYS, NDArray, from_record, to_record
from app.packing.transport import forget, traffic
from app.packing.updates import compare
from app.rounds import events
from app.rounds.enough import CLOCKS_DIFFER_S, Rule, needed, quorum
from app.rounds.goal import Goal
from app.rounds.partitions import Partitions
from app.rounds.phases import Exchange, OrderedGrid, wait_for_nodes
from app.rounds.privacy import privacy_report
from app.rounds.screening import NUM_EXAMPLES, Known, Rejection, Screened, noted, screen, screen_evaluation
from app.rounds.state.run import RunState
from app.rounds.state.strategy import keep_strategy, strategy_state
from app.settings import RunSettings

Evaluate = Callable[[ArrayRecord], tuple[float, float]]
PARTITIONS_WITHIN_S = 60.0
SHA256 = 64  # characters of a message's id, which Flower makes of all its objects


@dataclass
class Rounds:
    """One run's rounds.

    Attributes:
        grid: Flower's grid.
        settings: the run's settings.
        state: where the run stands; each round moves it on.
        evaluate: loss and accuracy of a model on the server's test split.
        emit: takes the events of the run.
        names: the names that clients were enrolled under, by node id, as they are known now.
        known: what is known of the replies of a phase, ``train`` or ``evaluate``, before they come.
        data: ``shape``, ``classes`` and ``division`` of the server's data; each client compares them with its own.
        after_round: called with the state after each round, after the round's event.
        between_rounds: called before each further round; what it raises ends the run.
    """

    grid: Grid
    settings: RunSettings
    state: RunState
    evaluate: Evaluate
    emit: Callable[[events.Event], None]
    names: Callable[[], Mapping[int, str]] = dict
    known: Callable[[str], Known] = lambda _: Known()
    data: ConfigRecord = field(default_factory=ConfigRecord)
    after_round: Callable[[RunState], None] = lambda _: None
    between_rounds: Callable[[], None] = lambda: None
    _partitions: Partitions = field(init=False)
    _ordered: Any = field(init=False)  # an OrderedGrid, which the strategies take for a Grid
    _names: Mapping[int, str] = field(default_factory=dict)
    _lengths: dict[int, float] = field(default_factory=dict)  # of the last updates, by node id
    _stale: dict[str, int] = field(default_factory=dict)  # messages without a reply, and their round
    _clients: int = 0  # that the run has, or wants

    def __post_init__(self) -> None:
        self._ordered = OrderedGrid(self.grid)
        self._ordered.partition_of = self.state.partition_of
        self._partitions = Partitions(
            self.state.partition_of, self._left, lambda node: self._client(node).label
        )
        self._goal = Goal(self.settings, self.state.summary.best)

    def run(self) -> str:
        """Train from ``state`` until ``num-server-rounds`` rounds are done; why it ended before that, if it did.

        Raises:
            RunStopped: too few clients are there, or too few of their replies are of use.
        """
        settings, state = self.settings, self.state
        self._connect()
        for server_round in range(state.round + 1, settings.num_server_rounds + 1):
            try:
                finished = self._round(server_round)
            except PrivacyBudgetExhausted as spent:
                self.emit(events.PrivacyBudgetSpent(server_round, str(spent)))
                return f"the privacy budget is spent: {spent}"
            state.round = server_round
            self.emit(finished)
            self.after_round(state)
            if reason := self._goal.reached(server_round, finished.accuracy, finished.client_accuracy):
                return reason
            if server_round < settings.num_server_rounds:
                self.between_rounds()
        return ""

    def evaluate_model(self) -> str:
        """Have every client evaluate the model of ``state``. Raises RunStopped as :meth:`run` does."""
        self._connect()
        self._names = self.names()
        central: list[float] = []
        evaluated, by_clients = self._evaluate_with_clients(
            0, lambda: central.extend(self.evaluate(self.state.arrays))
        )
        loss, accuracy = central
        self.emit(events.ModelEvaluated(self.settings.weights, loss, accuracy, by_clients, evaluated))
        return ""

    def _connect(self) -> None:
        """Wait for the clients, and tell which are there."""
        settings = self.settings
        # A run that goes on does not wait for clients that it had lost before.
        nodes = self._wait_for_clients(self.state.clients or settings.min_available_nodes)
        self._clients = max(len(nodes), settings.min_available_nodes)
        if settings.fraction_train < 1:
            self._learn_partitions(nodes)
        self.emit(events.ClientsConnected([self._client(node) for node in nodes]))

    # -- one round ------------------------------------------------------------------------------

    def _round(self, server_round: int) -> events.RoundFinished:
        begun = time.monotonic()
        self._names = self.names()
        self._forget_before(server_round - 1)
        trained, train_loss = self._train(server_round)
        central: list[float] = []
        evaluated, by_clients = self._evaluate_with_clients(
            server_round, lambda: central.extend(self.evaluate(self.state.arrays))
        )
        loss, accuracy = central
        return events.RoundFinished(
            round=server_round,
            rounds=self.settings.num_server_rounds,
            seconds=time.monotonic() - begun,
            loss=loss,
            accuracy=accuracy,
            train_loss=train_loss,
            client_accuracy=by_clients,
            trained=trained,
            evaluated=evaluated,
            traffic=traffic(self.grid),
            privacy=privacy_report(self.state.strategy, self.settings, server_round + self.state.repeated),
            best=self._goal.judge(server_round, loss, accuracy, by_clients),
        )

    def _train(self, server_round: int) -> tuple[int, float | None]:
        """Replace the global model by the average of the clients'; how many trained, and their mean loss."""
        state, strategy = self.state, self.state.strategy
        wanted = self._wanted(self.settings.fraction_train, self.settings.min_train_nodes)
        self._prepare_choice(f"{self.settings.seed}/{server_round}/train", wanted)
        state.clients = len(self._ordered.nodes)
        messages = list(strategy.configure_train(server_round, state.arrays, self._config(), self._ordered))
        accepted = self._phase(
            server_round,
            "train",
            messages,
            lambda replies: screen(
                replies,
                state.arrays,
                known=self.known("train"),
                seen_examples=state.seen_examples,
                names=self._labels(),
                lengths=self._lengths,
            ),
            wanted=wanted,
        )
        restore = keep_strategy(strategy)
        averaged, metrics = strategy.aggregate_train(server_round, accepted)
        arrays = _like(state.arrays, averaged)
        if _finite(from_record(arrays)) and _finite(strategy_state(strategy)[0]):
            state.arrays = arrays
        else:
            restore()
            self.emit(events.AverageRefused(server_round, "the average is not finite"))
        return len(accepted), _value(metrics, "train_loss")

    def _evaluate_with_clients(
        self, server_round: int, meanwhile: Callable[[], None]
    ) -> tuple[int, float | None]:
        """How many clients evaluated the model, and their weighted mean accuracy."""
        strategy, settings = self.state.strategy, self.settings
        if not settings.fraction_evaluate:
            meanwhile()
            return 0, None
        wanted = self._wanted(settings.fraction_evaluate, settings.min_evaluate_nodes)
        self._prepare_choice(f"{settings.seed}/{server_round}/evaluate", wanted)
        messages = list(
            strategy.configure_evaluate(server_round, self.state.arrays, self._config(), self._ordered)
        )
        accepted = self._phase(
            server_round,
            "evaluate",
            messages,
            lambda replies: screen_evaluation(replies, known=self.known("evaluate"), names=self._labels()),
            wanted=wanted,
            meanwhile=meanwhile,
        )
        metrics = strategy.aggregate_evaluate(server_round, accepted)
        return len(accepted), _value(metrics, "eval_accuracy")

    def _phase(
        self,
        server_round: int,
        phase: str,
        messages: list[Message],
        screened: Callable[[list[Message]], Screened],
        *,
        wanted: int,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[Message]:
        """Ask, wait and screen; the accepted replies in the order of their partition ids.

        Raises:
            RunStopped: too few replies are of use, also after ``round-retries`` further tries.
        """
        begun = time.monotonic()
        clients = [self._client(message.metadata.dst_node_id) for message in messages]
        self.emit(events.PhaseStarted(server_round, phase, clients))
        exchange = Exchange(
            self.grid,
            self.settings.update_dtype,
            # Until then a reply is of use.
            ttl=self.settings.round_deadline * (1 + self.settings.round_retries) + CLOCKS_DIFFER_S,
            lost=lambda node: self.emit(events.ClientLost(server_round, phase, self._client(node))),
            returned=lambda node: self.emit(events.ClientReturned(server_round, phase, self._client(node))),
            received=lambda node, seconds: self.emit(
                events.ReplyReceived(server_round, phase, self._client(node), seconds)
            ),
            stale=self._stale,
        )
        exchange.send(messages)
        meanwhile()
        exchange.wait(self._enough(phase, wanted), begun)
        accepted, rejected = self._screened(server_round, phase, exchange, screened)
        least, retries = self._least(phase, wanted), self.settings.round_retries
        for attempt in range(1, retries + 1):
            if len(accepted) >= least:
                break
            self.emit(events.PhaseRetried(server_round, phase, len(accepted), least, attempt, retries))
            exchange.send_again(self._to_ask(exchange, accepted, wanted))
            exchange.wait(self._enough(phase, wanted))
            accepted, rejected = self._screened(server_round, phase, exchange, screened)
        self._stale |= dict.fromkeys(exchange.open, server_round)
        self._tell(server_round, phase, exchange, accepted, rejected, begun)
        if len(accepted) < least:
            raise RunStopped(self._too_few(server_round, phase, len(accepted), least, wanted))
        return accepted

    def _screened(
        self,
        server_round: int,
        phase: str,
        exchange: Exchange,
        screened: Callable[[list[Message]], Screened],
    ) -> tuple[list[Message], list[Rejection]]:
        """The usable replies, in the order of their partition ids, and those left out, which are told."""
        claims = [(reply, self._claim(reply)) for reply in exchange.replies.values()]
        accepted, rejected, limited = screened([reply for reply, fault in claims if not fault])
        names = self._labels()
        rejected += [noted("Left out", reply, fault, names) for reply, fault in claims if fault]
        for rejection in rejected:
            client = self._client(rejection.node_id)
            self.emit(events.ReplyRejected(server_round, phase, client, rejection.reason))
        for limit in limited:
            self.emit(events.ReplyLimited(server_round, phase, self._client(limit.node_id), limit.reason))
        accepted.sort(key=lambda reply: self._ordered.partition(reply.metadata.src_node_id))
        return accepted, rejected

    def _tell(
        self,
        server_round: int,
        phase: str,
        exchange: Exchange,
        accepted: list[Message],
        rejected: list[Rejection],
        begun: float,
    ) -> None:
        """Emit what became of each client, and of the phase."""
        seconds = time.monotonic() - begun
        for node, reason in exchange.missing.items():
            reason = reason or f"no reply within {seconds:.1f} s (round-deadline, grace)"
            self.emit(events.ReplyLate(server_round, phase, self._client(node), reason))
        for reply in accepted:
            self.emit(self._accepted(server_round, phase, reply, exchange))
        if self._tells_updates(phase) and len(accepted) > 1:
            self.emit(self._compared(server_round, accepted))
        self.emit(
            events.PhaseFinished(
                server_round,
                phase,
                accepted=len(accepted),
                rejected=len(rejected),
                late=len(exchange.missing),
                seconds=seconds,
                bytes_down=sum(exchange.bytes_down.values()),
                bytes_up=sum(exchange.bytes_up.values()),
                arrived_late=exchange.arrived_late,
            )
        )

    def _tells_updates(self, phase: str) -> bool:
        """With ``privacy`` a single update is not told of."""
        return phase == "train" and self.settings.privacy == "none"

    def _compared(self, server_round: int, replies: list[Message]) -> events.UpdatesCompared:
        clients = [self._client(reply.metadata.src_node_id) for reply in replies]
        updated = [from_record(reply.content.array_records[ARRAYS]) for reply in replies]
        return events.UpdatesCompared(
            server_round, clients, *compare(from_record(self.state.arrays), updated)
        )

    def _forget_before(self, server_round: int) -> None:
        """Wait no longer for late replies to earlier rounds, so that they take no memory."""
        old = [message for message, number in self._stale.items() if number < server_round]
        if old:
            forget(self.grid, old)
        for message in old:
            del self._stale[message]

    # -- how many are enough --------------------------------------------------------------------

    def _wanted(self, fraction: float, least: int) -> int:
        """The clients that a phase would ask if all were there."""
        return min(self._clients, max(int(self._clients * fraction), least, 1))

    def _least(self, phase: str, wanted: int) -> int:
        settings = self.settings
        fewest = settings.fewest_updates if phase == "train" else 1
        return needed(settings.min_replies, wanted, strict=settings.strict, fewest=fewest)

    def _enough(self, phase: str, wanted: int) -> Rule:
        return quorum(self._least(phase, wanted), self.settings.round_deadline, self.settings.grace)

    def _to_ask(self, exchange: Exchange, accepted: list[Message], wanted: int) -> list[int]:
        """Who is asked in a further try, of those there: first clients not asked yet, then those without a usable reply."""
        here = [node for node in self._ordered.get_node_ids() if node not in exchange.working]
        short = wanted - len(accepted) - len(exchange.working & set(self.grid.get_node_ids()))
        done = {reply.metadata.src_node_id for reply in accepted}
        before = [node for node in here if node in exchange.asked and node not in done]
        others = [node for node in here if node not in exchange.asked]
        return [*others, *before][: max(short, 0)]

    def _prepare_choice(self, draw: str, wanted: int) -> None:
        """Let the strategy choose among the clients that are there, once there are enough."""
        ordered, settings = self._ordered, self.settings
        ordered.nodes = self._wait_for_clients(self._least(draw.rpartition("/")[2], wanted))
        ordered.draw = draw
        # A wrapper for privacy holds the strategy that chooses.
        inner: Any = getattr(self.state.strategy, "strategy", self.state.strategy)
        inner.min_available_nodes = 1
        inner.min_train_nodes = min(max(settings.min_train_nodes, 1), len(ordered.nodes))
        inner.min_evaluate_nodes = min(max(settings.min_evaluate_nodes, 1), len(ordered.nodes))

    def _wait_for_clients(self, wanted: int) -> list[int]:
        """The connected nodes: ``wanted`` or, when ``wait-for-clients`` is over, enough for a phase.

        Raises:
            RunStopped: there are fewer.
        """
        limit = self.settings.wait_for_clients
        nodes = wait_for_nodes(self.grid, wanted, limit, lambda here: self._awaited(here, wanted))
        least = min(
            wanted, needed(self.settings.min_replies, self._clients or wanted, strict=self.settings.strict)
        )
        if len(nodes) < least:
            missing = self._missing(nodes, wanted)
            names = f"; missing: {', '.join(missing)}" if missing else ""
            raise RunStopped(
                f"{len(nodes)} of {wanted} clients are connected after {limit:g} s (wait-for-clients), "
                f"and {least} are needed (min-replies, strict){names}; start them, and run again to go on"
            )
        return nodes

    def _too_few(self, server_round: int, phase: str, accepted: int, least: int, wanted: int) -> str:
        missing = self._missing(list(self.grid.get_node_ids()), wanted)
        names = f"; offline: {', '.join(missing)}" if missing else ""
        return (
            f"round {server_round}: {phase} has {accepted} usable replies of {least} that min-replies or strict "
            f"asks for, also after {self.settings.round_retries} further tries (round-retries){names}; "
            "look at the clients, and run again to go on from the last checkpoint"
        )

    def _config(self) -> ConfigRecord:
        """A phase's ``config``; strategies add to it."""
        return ConfigRecord(dict(self.data))

    # -- who the clients are --------------------------------------------------------------------

    def _awaited(self, nodes: list[int], wanted: int) -> None:
        self._names = self.names()
        if not self._names:
            self._learn_partitions([node for node in nodes if node not in self.state.partition_of])
        self.emit(events.ClientsAwaited(len(nodes), wanted, self._missing(nodes, wanted)))

    def _missing(self, nodes: list[int], wanted: int) -> list[str]:
        """What the clients are called that are not among ``nodes``, as far as that is known."""
        if self._names:
            return sorted(name for node, name in self._names.items() if node not in nodes)
        here = {self.state.partition_of.get(node) for node in nodes}
        if None in here:
            return []
        return [f"partition {number}" for number in range(max(wanted, self._clients)) if number not in here]

    def _learn_partitions(self, nodes: list[int]) -> None:
        """Ask each node for its partition id, so that a seeded choice of clients can be repeated."""
        exchange = Exchange(self.grid)
        exchange.send(Message(RecordDict(), node, "query") for node in nodes)
        exchange.wait(quorum(len(nodes), PARTITIONS_WITHIN_S))
        for reply in exchange.replies.values():
            self._claim(reply)

    def _claim(self, reply: Message) -> str:
        """Note the partition id that a reply claims; why the reply cannot be used, empty where it can."""
        for metrics in reply.content.metric_records.values() if reply.has_content() else ():
            if isinstance(partition := metrics.get("partition-id"), int):
                return self._partitions.claim(reply.metadata.src_node_id, partition)
        return ""

    def _left(self, holder: int, node: int) -> bool:
        """Whether ``node`` may be the client that was ``holder``: started again without a key, or with a new one."""
        if (name := self._names.get(holder)) and name != self._names.get(node):
            return False
        return holder not in self.grid.get_node_ids()

    def _client(self, node: int) -> events.Client:
        return events.Client(node, self.state.partition_of.get(node), self._names.get(node, ""))

    def _labels(self) -> dict[int, str]:
        known = self._names.keys() | self.state.partition_of.keys()
        return events.labels(self._client(node) for node in known)

    def _accepted(
        self, server_round: int, phase: str, reply: Message, result: Exchange
    ) -> events.ReplyAccepted:
        node, name = reply.metadata.src_node_id, reply.metadata.message_id
        metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
        prefix = "train" if phase == "train" else "eval"
        return events.ReplyAccepted(
            server_round,
            phase,
            self._client(node),
            num_examples=int(_value(metrics, NUM_EXAMPLES) or 0),
            loss=_value(metrics, f"{prefix}_loss"),
            accuracy=_value(metrics, f"{prefix}_accuracy", f"{prefix}_acc"),
            seconds=result.seconds.get(node, 0.0),
            bytes_down=result.bytes_down.get(node, 0),
            bytes_up=result.bytes_up.get(node, 0),
            device="cuda" if metrics.get("on-gpu") else "cpu",
            update_length=self._lengths.get(node) if self._tells_updates(phase) else None,
            sha256=name if len(name) == SHA256 else "",
        )


def _like(before: ArrayRecord, averaged: ArrayRecord | None) -> ArrayRecord:
    """``averaged`` in the types of ``before``: Flower's adaptive strategies compute in float64 and leave it so."""
    if averaged is None:
        return before
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes of it is looked at afterwards
        return to_record(
            {
                name: array.astype(before[name].dtype, copy=False)
                for name, array in from_record(averaged).items()
            }
        )


def _finite(arrays: Mapping[str, NDArray]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays.values())


def _value(metrics: MetricRecord | None, *names: str) -> float | None:
    """The first of ``names`` that is there: a number, or the mean of several."""
    for name in names:
        value = metrics.get(name) if metrics is not None else None
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, list) and value:
            return sum(value) / len(value)
    return None
