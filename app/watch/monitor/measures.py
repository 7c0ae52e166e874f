"""What the events of runs amount to, as Prometheus counts it.

The values of labels are bounded: phases, outcomes and reasons are fixed words, and never a client's own.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.watch.runs import Record

PHASES = ("train", "evaluate", "query")
OUTCOMES = {"reply_accepted": "accepted", "reply_rejected": "rejected", "reply_late": "late"}
ENDS = ("completed", "subset", "interrupted", "failed")
OTHER = "other"
MOST_RUNS = 20  # runs with gauges of their own: the newest
MOST_CLIENTS = 1000
SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)

# Why a reply was not used: a word for each kind, the first that fits.
REASONS: tuple[tuple[str, str], ...] = (
    ("site_rules", r"this client's site requires"),
    ("refused", r"the SuperLink refused"),
    ("timeout", r"no reply within|time to live|round-deadline|BOUQUET_ROUND_DEADLINE|BOUQUET_GRACE"),
    ("error", r"^error -?\d+:"),
    ("offline", r"offline|unavailable|lost"),
    ("not_finite", r"not finite|NaN or infinity"),
    ("examples", r"num-examples"),
    ("metrics", r"^its metric"),
    ("update_size", r"^its update is"),
    ("partition", r"claims partition"),
    ("model", r"^the model it sent|^array |^it holds the records|cannot be read"),
)


def reason_class(reason: str) -> str:
    """The word for a reason."""
    return next((word for word, pattern in REASONS if re.search(pattern, reason)), OTHER)


def _one_of(known: tuple[str, ...], value: Any) -> str:
    return value if value in known else OTHER


@dataclass
class RunGauges:
    """Where one run is."""

    round: int = 0
    rounds: int = 0
    ended: bool = False
    accuracy: float | None = None
    loss: float | None = None
    client_accuracy: float | None = None
    event_time: float = 0.0
    round_started: float = 0.0


class Measures:
    """Counters of all runs since this began, and gauges of the newest runs.

    Attributes:
        runs: the newest runs, by name.
        labels: what each node calls itself where it was enrolled under no name, by node id.
    """

    def __init__(self, registry: CollectorRegistry, since: float = 0.0) -> None:
        self.runs: dict[str, RunGauges] = {}
        self.labels: dict[int, str] = {}
        self._since = since

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"bouquet_{name}", meaning, labels, registry=registry)

        self._rounds = counter("rounds_finished", "Rounds that are finished, of all runs.")
        self._replies = counter("replies", "Replies of clients.", "phase", "outcome")
        self._failures = counter("reply_failures", "Replies that were not used.", "phase", "reason")
        self._retries = counter("phase_retries", "Phases that were tried again.", "phase")
        self._lost = counter("clients_lost", "Clients that went offline before they had replied.")
        self._refused = counter("averages_refused", "Rounds whose average was no model.")
        self._bytes = counter("bytes", "Bytes of messages to clients (down) and replies (up).", "direction")
        self._started = counter("runs_started", "Runs that began.")
        self._resumed = counter("runs_resumed", "Times that a run went on after it was cut off.")
        self._ended = counter("runs_ended", "Runs that ended, by how.", "status")
        self._phase_s = Histogram(
            "bouquet_phase_seconds", "Seconds of a phase.", ["phase"], buckets=SECONDS, registry=registry
        )
        self._round_s = Histogram(
            "bouquet_round_seconds", "Seconds of a round.", buckets=SECONDS, registry=registry
        )
        self._reply_s = Gauge(
            "bouquet_client_reply_seconds",
            "From sending to this client's reply, the last time.",
            ["client", "phase"],
            registry=registry,
        )
        self._zero()

    def _zero(self) -> None:
        """Each value of the labels is there from the first: an increase from nothing is none for Prometheus."""
        for phase in PHASES[:2]:
            self._retries.labels(phase)
            self._phase_s.labels(phase)
            for outcome in OUTCOMES.values():
                self._replies.labels(phase, outcome)
            for reason in (*(word for word, _ in REASONS), OTHER):
                self._failures.labels(phase, reason)
        for direction in ("down", "up"):
            self._bytes.labels(direction)
        for status in (*ENDS, OTHER):
            self._ended.labels(status)

    def take(self, run: str, record: Record) -> None:
        """Count one record. One that is not of this form is passed over: another program may have written it."""
        with suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
            when = datetime.fromisoformat(record["time"]).timestamp()
            gauges = self.runs.setdefault(run, RunGauges())
            gauges.event_time = max(gauges.event_time, when)
            self._place(gauges, record, when)
            if when >= self._since:
                self._count(record)
        while len(self.runs) > MOST_RUNS:
            ended = (name for name, each in self.runs.items() if each.ended)
            self.runs.pop(next(ended, next(iter(self.runs))))

    def _place(self, gauges: RunGauges, record: Record, when: float) -> None:
        match record["event"]:
            case "run_started":
                gauges.rounds = int(record["settings"].get("num-server-rounds", 0))
                gauges.round_started = when
            case "run_resumed":
                gauges.round, gauges.ended, gauges.round_started = int(record["round"]), False, when
            case "phase_started":
                if gauges.round != int(record["round"]) or not gauges.round_started:
                    gauges.round, gauges.round_started = int(record["round"]), when
            case "round_finished":
                gauges.round, gauges.rounds = int(record["round"]), int(record["rounds"])
                gauges.accuracy, gauges.loss = record["accuracy"], record["loss"]
                gauges.client_accuracy = record["client_accuracy"]
            case "run_finished":
                gauges.ended = True

    def _count(self, record: Record) -> None:
        match record["event"]:
            case "run_started":
                self._started.inc()
            case "run_resumed":
                self._resumed.inc()
            case "run_finished":
                self._ended.labels(_one_of(ENDS, record["status"])).inc()
            case "round_finished":
                self._rounds.inc()
                self._round_s.observe(float(record["seconds"]))
            case "average_refused":
                self._refused.inc()
            case "client_lost":
                self._lost.inc()
            case _ if "phase" in record:
                self._count_of_phase(_one_of(PHASES, record["phase"]), record)

    def _count_of_phase(self, phase: str, record: Record) -> None:
        event = record["event"]
        if event in OUTCOMES:
            self._replies.labels(phase, OUTCOMES[event]).inc()
            label = self._label(record["client"])
            if event == "reply_accepted":
                if label:
                    self._reply_s.labels(label, phase).set(float(record["seconds"]))
            else:
                self._failures.labels(phase, reason_class(str(record["reason"]))).inc()
        elif event == "phase_retried":
            self._retries.labels(phase).inc()
        elif event == "phase_finished":
            self._phase_s.labels(phase).observe(float(record["seconds"]))
            for direction in ("down", "up"):
                self._bytes.labels(direction).inc(int(record[f"bytes_{direction}"]))

    def _label(self, client: Mapping[str, Any]) -> str:
        """What people call a client; empty for more clients than have gauges."""
        node, partition = int(client["node_id"]), client.get("partition_id")
        if node not in self.labels and len(self.labels) >= MOST_CLIENTS:
            return ""
        name = str(client.get("name") or "")[:63]
        label = name or (f"node {node}" if partition is None else f"partition {int(partition)}")
        self.labels[node] = label
        return label

    def forget(self, label: str) -> None:
        """A client is there no more."""
        self.labels = {node: known for node, known in self.labels.items() if known != label}
        for phase in (*PHASES, OTHER):
            with suppress(KeyError):
                self._reply_s.remove(label, phase)
