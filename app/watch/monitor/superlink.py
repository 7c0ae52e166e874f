"""The metrics of a SuperLink: of its runs, from their events; of its clients, from its own state; of its host.

All of it is found out when Prometheus asks, and not more often than once a second. Without a Prometheus it costs nothing.
"""

import os
import platform
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from app.environment import DRAIN, AppEnvironment, read
from app.errors import UserError
from app.fleet.control import Connection, control
from app.fleet.deployment import SuperLinkSettings
from app.fleet.fleet_api import told
from app.fleet.host import ports
from app.fleet.identity.certificates import load_certificate
from app.fleet.identity.members import Member, listed
from app.fleet.runs.queue import PENDING, states
from app.watch.monitor.follow import Runs
from app.watch.monitor.measures import MOST_CLIENTS, Measures
from app.watch.monitor.server import serve as listen

LEAST_S = 1.0  # between two looks
STATUSES = ("enrolled", "online", "offline")
OVER = ("completed", "failed", "stopped")
STATES = (PENDING, "running", *OVER)
Answer = tuple[list[Member], list[str]]  # the members, and the state of each run


class SuperLink:
    """Collects what the process knows. Prometheus's client calls :meth:`collect` for each scrape.

    Args:
        settings: of the SuperLink.
        results: its results folder.
        registry: takes the counters.
        ask: the members and the states of the runs; None while the SuperLink does not answer.
        since: when it was started (seconds since 1970).
    """

    def __init__(
        self,
        settings: SuperLinkSettings,
        results: Path,
        registry: CollectorRegistry,
        ask: Callable[[], Answer | None],
        since: float,
    ) -> None:
        self._settings, self._results, self._ask = settings, results, ask
        self._runs, self._lock = Runs(results, since), threading.Lock()
        self._looked, self._found = float("-inf"), list[Metric]()
        registry.register(self)  # before the counters, which it moves
        self._measures = Measures(registry, since)
        self._names: set[str] = set()

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on the moment."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Look, unless that was a moment ago; then what was found."""
        with self._lock:
            if time.monotonic() - self._looked >= LEAST_S:
                for folder, records in self._runs.new():
                    for record in records:
                        self._measures.take(folder.name, record)
                answer = self._ask()
                self._found = [*self._of_runs(answer), *self._of_clients(answer), *self._of_host()]
                self._looked = time.monotonic()
            found = self._found
        yield from found

    def _of_runs(self, answer: Answer | None) -> Iterator[Metric]:
        def gauge(name: str, meaning: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"bouquet_run_{name}", meaning, labels=["run"])

        families = {
            "round": gauge("round", "The round that the run is in."),
            "rounds": gauge("rounds", "Rounds that were asked for."),
            "accuracy": gauge("accuracy", "Of the global model on the server's test split."),
            "loss": gauge("loss", "Of the global model on the server's test split."),
            "client_accuracy": gauge("client_accuracy", "Mean over the clients that evaluated."),
            "event_time": gauge("event_timestamp_seconds", "When the run last told of something."),
            "round_started": gauge("round_started_timestamp_seconds", "When that round began."),
            "running": gauge("running", "1 until the run has ended."),
        }
        running = self._running(answer)
        for name, run in self._measures.runs.items():
            for field, family in families.items():
                value = int(name in running) if field == "running" else getattr(run, field)
                if value is not None:
                    family.add_metric([name], float(value))
        yield from families.values()

    def _running(self, answer: Answer | None) -> set[str]:
        """The runs that have not told of an end. A ServerApp that was killed tells of none, so the SuperLink says how many go on."""
        left = {name: run for name, run in self._measures.runs.items() if not run.ended}
        if answer is None:
            return set(left)
        going = sum(state not in OVER and state != PENDING for state in answer[1])
        return set(sorted(left, key=lambda name: -left[name].event_time)[:going])

    def _of_clients(self, answer: Answer | None) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "bouquet_superlink_answers", "1 where its Control API answers.", int(answer is not None)
        )
        by_state = GaugeMetricFamily(
            "bouquet_runs", "Runs that the SuperLink has, by state.", labels=["state"]
        )
        by_status = GaugeMetricFamily("bouquet_clients", "Members, by status.", labels=["status"])
        online = GaugeMetricFamily("bouquet_client_online", "1 while it is connected.", labels=["client"])
        seen = GaugeMetricFamily(
            "bouquet_client_last_seen_timestamp_seconds", "Its last heartbeat.", labels=["client"]
        )
        if answer is not None:
            members, found = (
                [member for member in answer[0] if member.status != "revoked"],
                Counter(answer[1]),
            )
            for state in (*STATES, *sorted(found.keys() - STATES)):
                by_state.add_metric([state], found[state])
            for status in STATUSES:
                by_status.add_metric([status], sum(member.status == status for member in members))
            members.sort(key=lambda member: member.status == "online")  # of two of one name, it counts
            named = {self._name(member): member for member in members[-MOST_CLIENTS:]}
            for name, member in named.items():
                online.add_metric([name], int(member.status == "online"))
                if member.last_seen is not None:
                    seen.add_metric([name], member.last_seen.timestamp())
            for gone in self._names - named.keys():
                self._measures.forget(gone)
            self._names = set(named)
        yield from (by_state, by_status, online, seen, *_told(self._names))

    def _name(self, member: Member) -> str:
        """Its name; of a member without one, what the runs call it."""
        return self._measures.labels.get(member.node_id, member.name)

    def _of_host(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("bouquet_build", "Versions.", labels=["bouquet", "flower", "python"])
        build.add_metric([version("bouquet"), version("flwr"), platform.python_version()], 1)
        expiry = GaugeMetricFamily(
            "bouquet_certificate_expiry_timestamp_seconds", "When it expires.", labels=["certificate"]
        )
        if (folder := self._settings.certificates) is not None:
            for name in ("ca", "server"):
                with suppress(UserError):
                    end = load_certificate(folder / f"{name}.crt", "certificate").not_valid_after_utc
                    expiry.add_metric([name], end.timestamp())
        free = GaugeMetricFamily("bouquet_disk_free_bytes", "Free where it writes.", labels=["folder"])
        size = GaugeMetricFamily("bouquet_disk_size_bytes", "Size of that disk.", labels=["folder"])
        for name, path in (("results", self._results), ("state", self._settings.state)):
            with suppress(OSError):
                if path is not None:
                    usage = shutil.disk_usage(path)
                    free.add_metric([name], usage.free)
                    size.add_metric([name], usage.total)
        yield from (build, expiry, free, size)
        draining = (self._results / DRAIN).exists()
        yield GaugeMetricFamily("bouquet_draining", "1 after `bouquet drain`.", int(draining))
        yield GaugeMetricFamily(
            "bouquet_serverapps_memory_bytes",
            "Resident, of the processes of the runs.",
            _memory_of_children(),
        )


def _told(names: Collection[str]) -> Iterator[Metric]:
    """What members tell of themselves (``BOUQUET_SHARE_METRICS``)."""
    memory = GaugeMetricFamily(
        "bouquet_client_memory_bytes", "What its processes hold of their own.", labels=["client"]
    )
    messages = CounterMetricFamily(
        "bouquet_client_messages", "Messages that it has worked on since its start.", labels=["client"]
    )
    loaded = CounterMetricFamily(
        "bouquet_client_apps_loaded",
        "Times that it loaded an app; all other messages were warm starts.",
        labels=["client"],
    )
    for name, (_, usage) in list(told.latest.items()):
        if name in names:
            memory.add_metric([name], usage.memory_bytes)
            messages.add_metric([name], usage.messages)
            loaded.add_metric([name], usage.apps_loaded)
    yield from (memory, messages, loaded)


def _memory_of_children() -> int:
    total = 0
    with suppress(psutil.Error):
        for child in psutil.Process(os.getpid()).children(recursive=True):
            with suppress(psutil.Error):
                total += child.memory_info().rss
    return total


class Asking:
    """Asks the SuperLink of this process through its Control API, where that is up."""

    def __init__(self, settings: SuperLinkSettings) -> None:
        ca = settings.certificates / "ca.crt" if settings.certificates is not None else None
        self._connection = Connection(f"127.0.0.1:{settings.control_port}", ca)

    def __call__(self) -> Answer | None:
        """The members, and the state of each run; None where it does not answer."""
        try:
            # Where nobody listens yet, its client would wait.
            with socket.create_connection(ports.split(self._connection.address), 1.0):
                pass
            with control(self._connection) as client:
                return listed(client), states(client)
        except (OSError, UserError):
            return None


def serve(settings: SuperLinkSettings) -> None:
    """Serve the metrics of this process from now on, at the address in the settings. Raises OSError."""
    host, port = ports.split(settings.metrics)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    results = read(AppEnvironment).results
    SuperLink(settings, results, registry, Asking(settings), time.time())
    ProcessCollector(registry=registry)
    listen(host, port, registry)
