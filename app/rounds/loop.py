"""The rounds of a run: Flower's strategies choose and average, this loop sends, waits, screens and records.

It does what ``Strategy.start`` does, in the same order for the strategy, with three differences: the replies
that cannot be right are left out, the replies are averaged in the order of their partition ids (so that a
seeded run repeats bit for bit), and the server evaluates the global model while the clients evaluate it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.exception import PrivacyBudgetExhausted
from flwr.serverapp.strategy import Strategy

from app.learning.arrays import from_record, to_record
from app.rounds.grid import Exchange, OrderedGrid, exchange, wait_for_nodes
from app.rounds.privacy import privacy_report
from app.rounds.results import ResultsFolder, Summary
from app.rounds.screening import Rejection, screen, screen_evaluation
from app.settings import RunSettings

Evaluate = Callable[[ArrayRecord], tuple[float, float]]


@dataclass
class Rounds:
    """One run's rounds.

    Attributes:
        grid: Flower's grid.
        strategy: one of Flower's strategies.
        settings: the run's settings.
        evaluate: loss and accuracy of a model on the server's test split.
        folder: where results go.
        summary: what ``summary.json`` will hold; filled as the rounds go.
        names: client names by node id, for the log.
        data: ``shape`` and ``classes`` of the server's pictures; each client compares them with its own.
        say: prints one line of progress.
    """

    grid: Grid
    strategy: Strategy
    settings: RunSettings
    evaluate: Evaluate
    folder: ResultsFolder
    summary: Summary
    names: dict[int, str]
    data: ConfigRecord
    say: Callable[[str], None]
    _ordered: Any = field(init=False)  # an OrderedGrid, which the strategies take for a Grid
    _seen_examples: dict[int, int] = field(default_factory=dict)
    _bytes: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ordered = OrderedGrid(self.grid)

    def run(self, arrays: ArrayRecord) -> ArrayRecord:
        """Train for ``num-server-rounds`` rounds from ``arrays``; returns the last global model."""
        settings = self.settings
        nodes = wait_for_nodes(self.grid, settings.min_available_nodes, self.say)
        self.say(f"{len(nodes)} clients connected")
        if settings.fraction_train < 1:
            self._learn_partitions(nodes)
        self.summary.num_clients = len(nodes)
        start = time.monotonic()
        for server_round in range(1, settings.num_server_rounds + 1):
            begun = time.monotonic()
            try:
                arrays = self._round(server_round, arrays)
            except PrivacyBudgetExhausted as spent:
                self.say(f"round {server_round}: not run, the privacy budget is spent: {spent}")
                break
            self.summary.privacy = privacy_report(self.strategy, settings, server_round)
            self.summary.round_s.append(round(time.monotonic() - begun, 3))
            self.summary.wall_s = round(time.monotonic() - start, 3)
            self._record_bytes(len(nodes))
            self.folder.write_model(arrays)
            self.folder.write_summary(self.summary)
        return arrays

    # -- one round ------------------------------------------------------------------------------

    def _round(self, server_round: int, arrays: ArrayRecord) -> ArrayRecord:
        begun = time.monotonic()
        trained, arrays, train_loss = self._train(server_round, arrays)
        central: list[float] = []
        evaluated, by_clients = self._evaluate_with_clients(
            server_round, arrays, lambda: central.extend(self.evaluate(arrays))
        )
        loss, accuracy = central
        self.summary.rounds, self.summary.loss, self.summary.accuracy = server_round, loss, accuracy
        self.summary.accuracy_per_round.append(round(accuracy, 6))
        self.summary.client_accuracy_per_round.append(None if by_clients is None else round(by_clients, 6))
        self.folder.add_row(round=server_round, phase="server", loss=loss, accuracy=accuracy)
        self.say(
            f"round {server_round}/{self.settings.num_server_rounds}  accuracy {accuracy:.4f}  loss {loss:.4f}"
            + (f"  training loss {train_loss:.4f}" if train_loss is not None else "")
            + (f"  clients' accuracy {by_clients:.4f}" if by_clients is not None else "")
            + f"  {time.monotonic() - begun:.1f} s  ({trained} trained, {evaluated} evaluated)"
        )
        return arrays

    def _train(self, server_round: int, arrays: ArrayRecord) -> tuple[int, ArrayRecord, float | None]:
        self._ordered.draw = f"{self.settings.seed}/{server_round}/train"
        messages = self.strategy.configure_train(server_round, arrays, self._config(), self._ordered)
        came = exchange(
            self.grid, messages, timeout=self.settings.round_timeout, dtype=self.settings.update_dtype
        )
        accepted, rejected = screen(came.replies, arrays, seen_examples=self._seen_examples, names=self.names)
        self._note_failures(server_round, "train", came, rejected)
        accepted.sort(key=self._partition)
        if not accepted:
            self.say(f"round {server_round}: no usable reply; the model stays as it was")
            return 0, arrays, None
        self._record(server_round, "train", accepted, came)
        averaged, metrics = self.strategy.aggregate_train(server_round, accepted)
        return len(accepted), _like(arrays, averaged), _value(metrics, "train_loss")

    def _evaluate_with_clients(
        self, server_round: int, arrays: ArrayRecord, meanwhile: Callable[[], None]
    ) -> tuple[int, float | None]:
        """How many clients evaluated the model, and their weighted mean accuracy."""
        self._ordered.draw = f"{self.settings.seed}/{server_round}/evaluate"
        messages = self.strategy.configure_evaluate(server_round, arrays, self._config(), self._ordered)
        came = exchange(self.grid, messages, timeout=self.settings.round_timeout, meanwhile=meanwhile)
        accepted, rejected = screen_evaluation(came.replies, names=self.names)
        self._note_failures(server_round, "evaluate", came, rejected)
        accepted.sort(key=self._partition)
        if not accepted:
            return 0, None
        self._record(server_round, "evaluate", accepted, came)
        metrics = self.strategy.aggregate_evaluate(server_round, accepted)
        return len(accepted), _value(metrics, "eval_accuracy")

    def _config(self) -> ConfigRecord:
        """A phase's ``config``; strategies add to it."""
        return ConfigRecord(dict(self.data))

    def _learn_partitions(self, nodes: list[int]) -> None:
        """Ask each node for its partition id, so that a seeded choice of clients can be repeated."""
        from flwr.app import RecordDict

        questions = [Message(RecordDict(), node, "query") for node in nodes]
        for reply in exchange(self.grid, questions, timeout=60.0).replies:
            self._partition(reply)

    # -- records --------------------------------------------------------------------------------

    def _partition(self, reply: Message) -> int:
        """The reply's partition id; the largest number for a client that does not say."""
        node = reply.metadata.src_node_id
        if reply.has_content():
            for metrics in reply.content.metric_records.values():
                if isinstance(partition := metrics.get("partition-id"), int):
                    self._ordered.partition_of[node] = partition
        return int(self._ordered.partition_of.get(node, 1 << 62))

    def _record(self, server_round: int, phase: str, replies: list[Message], came: Exchange) -> None:
        for reply in replies:
            node = reply.metadata.src_node_id
            metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
            prefix = "train" if phase == "train" else "eval"
            self.folder.add_row(
                round=server_round,
                phase=phase,
                partition_id=self._ordered.partition_of.get(node, ""),
                node_id=node,
                num_examples=metrics.get("num-examples", ""),
                loss=metrics.get(f"{prefix}_loss", ""),
                accuracy=metrics.get(f"{prefix}_accuracy", metrics.get(f"{prefix}_acc", "")),
                seconds=came.seconds.get(node, ""),
                bytes_down=came.bytes_down.get(node, ""),
                bytes_up=came.bytes_up.get(node, ""),
            )
            if phase == "train" and metrics.get("on-gpu"):
                self.summary.device = "cuda"

    def _note_failures(
        self, server_round: int, phase: str, came: Exchange, rejected: list[Rejection]
    ) -> None:
        self._bytes.append((sum(came.bytes_down.values()), sum(came.bytes_up.values())))
        failures: list[dict[str, Any]] = [
            {"client": rejection.client, "node_id": rejection.node_id, "reason": rejection.reason}
            for rejection in rejected
        ] + [
            {
                "client": self.names.get(node, f"node {node}"),
                "node_id": node,
                "reason": f"no reply within {self.settings.round_timeout:g} s (round-timeout)",
            }
            for node in came.missing
        ]
        for failure in failures:
            partition = self._ordered.partition_of.get(failure["node_id"])
            self.summary.failures.append(
                {"round": server_round, "phase": phase, "partition_id": partition, **failure}
            )
            self.say(
                f"round {server_round}: {phase} goes on without {failure['client']}: {failure['reason']}"
            )

    def _record_bytes(self, clients: int) -> None:
        rounds = max(1, len(self.summary.round_s))
        down, up = (sum(pair[side] for pair in self._bytes) / rounds / max(1, clients) for side in (0, 1))
        self.summary.bytes_per_client_and_round = {"down": round(down), "up": round(up)}


def _like(before: ArrayRecord, averaged: ArrayRecord | None) -> ArrayRecord:
    """``averaged`` in the types of ``before``: Flower's adaptive strategies compute in float64 and leave it so."""
    if averaged is None:
        return before
    return to_record(
        {name: array.astype(before[name].dtype, copy=False) for name, array in from_record(averaged).items()}
    )


def _value(metrics: MetricRecord | None, name: str) -> float | None:
    value = metrics.get(name) if metrics is not None else None
    return (
        float(value)
        if isinstance(value, int | float)
        else (fmean(value) if isinstance(value, list) and value else None)
    )
