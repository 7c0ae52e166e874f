"""The metrics of a SuperLink: from events to text, with labels that are bounded, behind a server that is."""

import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.fleet.deployment import SuperLinkSettings
from app.fleet.fleet_api import told
from app.fleet.identity import certificates
from app.fleet.identity.members import Member
from app.rounds import events
from app.rounds.results import EventLog
from app.watch.monitor import server
from app.watch.monitor.measures import MOST_CLIENTS, MOST_RUNS, REASONS, Measures, reason_class
from app.watch.monitor.superlink import SuperLink

NOW = "2026-11-30T12:00:00+00:00"
SINCE = datetime.fromisoformat(NOW).timestamp()
A, B = events.Client(1, 0, "hospital-a"), events.Client(2, 1, "")
STARTED = events.RunStarted("7", "hosts", "digits", "", [1], ["a"], {"num-server-rounds": 5}, {})
Values = dict[tuple[str, tuple[str, ...]], float]


def accepted(client: events.Client, phase: str = "train") -> events.ReplyAccepted:
    return events.ReplyAccepted(1, phase, client, 10, 0.5, 0.5, 2.5, 1, 1, "cpu")


def phase_finished(phase: str, seconds: float) -> events.PhaseFinished:
    return events.PhaseFinished(1, phase, 2, 0, 0, seconds, 100, 50)


def round_finished(number: int, accuracy: float) -> events.RoundFinished:
    numbers: dict[str, Any] = dict.fromkeys(events.RoundFinished.__dataclass_fields__)
    told = {"round": number, "rounds": 5, "seconds": 3.0, "loss": 0.25, "accuracy": accuracy}
    return events.RoundFinished(**numbers | told)


def values(registry: CollectorRegistry) -> Values:
    """Name and values of labels to number, as Prometheus reads it."""
    text = generate_latest(registry).decode()
    return {
        (sample.name.removeprefix("bouquet_"), tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def write(folder: Path, *happened: events.Event, at: str = NOW) -> None:
    folder.mkdir(exist_ok=True)
    log = EventLog(folder)
    for event in happened:
        log.take(event, {"event": event.name(), "time": at, **asdict(event)})


@pytest.fixture
def members() -> list[Member]:
    seen = datetime.fromtimestamp(SINCE + 5, UTC)
    return [Member("hospital-a", "", 1, "online", seen, b""), Member("node-2", "", 2, "offline", seen, b"")]


@pytest.fixture
def look(tmp_path: Path, members: list[Member], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Values]:
    """Scrape a SuperLink with the certificates of a CA in tmp_path/pki and the results in tmp_path/results."""
    monkeypatch.setattr("app.watch.monitor.superlink.LEAST_S", 0.0)
    certificates.init_ca(tmp_path / "pki")
    certificates.issue_server(tmp_path / "pki")
    (tmp_path / "results").mkdir()
    settings = SuperLinkSettings(certificates=tmp_path / "pki", state=tmp_path)
    registry = CollectorRegistry()
    SuperLink(settings, tmp_path / "results", registry, lambda: (members, ["running", "failed"]), SINCE)
    return lambda: values(registry)


def test_what_runs_did_is_counted_and_where_they_are_is_shown(
    tmp_path: Path, look: Callable[[], Values]
) -> None:
    assert look()["replies_total", ("late", "train")] == 0, "an increase from nothing is none"
    write(
        tmp_path / "results" / "one", STARTED, accepted(A), accepted(B),
        events.ReplyRejected(1, "train", B, "array conv holds NaN or infinity"),
        events.ReplyLate(1, "evaluate", A, "no reply within 3.0 s (round-deadline, grace)"),
        phase_finished("train", 2.0), events.ClientLost(1, "train", B), round_finished(1, 0.75),
    )  # fmt: skip
    write(tmp_path / "results" / "two", STARTED, round_finished(2, 0.5), events.RunFinished("subset", 2, 9.0))
    found = look()
    assert found["rounds_finished_total", ()] == 2 and found["round_seconds_sum", ()] == 6
    assert found["replies_total", ("accepted", "train")] == 2
    assert found["reply_failures_total", ("not_finite", "train")] == 1
    assert found["reply_failures_total", ("evaluate", "timeout")] == 1
    assert found["phase_seconds_sum", ("train",)] == 2 and found["clients_lost_total", ()] == 1
    assert (found["bytes_total", ("down",)], found["bytes_total", ("up",)]) == (100, 50)
    assert found["runs_ended_total", ("subset",)] == 1 and found["runs_started_total", ()] == 2
    assert (found["run_accuracy", ("one",)], found["run_accuracy", ("two",)]) == (0.75, 0.5)
    assert (found["run_running", ("one",)], found["run_running", ("two",)]) == (1, 0)
    assert (found["run_round", ("two",)], found["run_rounds", ("two",)]) == (2, 5)
    assert found["client_reply_seconds", ("hospital-a", "train")] == 2.5
    assert look()["rounds_finished_total", ()] == 2, "each record counts once"


def test_members_certificates_and_disks_are_shown(
    tmp_path: Path, members: list[Member], look: Callable[[], Values]
) -> None:
    write(tmp_path / "results" / "one", accepted(A), accepted(B))
    found = look()
    assert found["client_online", ("hospital-a",)] == 1
    assert found["client_online", ("partition 1",)] == 0, "a member without a name has that of its replies"
    assert found["client_last_seen_timestamp_seconds", ("hospital-a",)] == SINCE + 5
    assert (found["runs", ("running",)], found["runs", ("failed",)], found["runs", ("pending",)]) == (1, 1, 0)
    assert found["clients", ("online",)] == 1
    expiry = {name: found["certificate_expiry_timestamp_seconds", (name,)] for name in ("ca", "server")}
    assert expiry["ca"] > expiry["server"] > time.time()
    assert found["disk_free_bytes", ("results",)] > 0 and found["disk_free_bytes", ("state",)] > 0
    members[0] = Member("hospital-a", "", 1, "revoked", None, b"")
    gone = look()
    assert not [labels for _, labels in gone if "hospital-a" in labels], "a revoked client has no figures"


def test_what_clients_tell_of_themselves_is_shown_while_they_belong(
    members: list[Member], look: Callable[[], Values], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = told.Usage(memory_bytes=300, messages=7, apps_loaded=1)
    monkeypatch.setattr(told, "latest", {"hospital-a": (SINCE, usage), "stranger": (SINCE, usage)})
    found = look()
    assert found["client_memory_bytes", ("hospital-a",)] == 300
    assert found["client_messages_total", ("hospital-a",)] == 7
    assert found["client_apps_loaded_total", ("hospital-a",)] == 1
    assert not [labels for _, labels in found if "stranger" in labels]


def test_a_run_whose_server_was_killed_is_not_under_way(tmp_path: Path, look: Callable[[], Values]) -> None:
    write(tmp_path / "results" / "one", STARTED, at="2026-11-30T12:00:01+00:00")
    write(tmp_path / "results" / "two", STARTED, at="2026-11-30T12:00:02+00:00")
    found = look()  # of a SuperLink that says that one run goes on
    assert (found["run_running", ("one",)], found["run_running", ("two",)]) == (0, 1)


def test_what_a_run_did_before_this_superlink_is_not_counted_again(
    tmp_path: Path, look: Callable[[], Values]
) -> None:
    write(tmp_path / "results" / "one", STARTED, round_finished(3, 0.5), at="2026-11-30T11:00:00+00:00")
    write(tmp_path / "results" / "one", events.RunResumed(3, "c", []), round_finished(4, 0.75))
    found = look()
    assert (found["rounds_finished_total", ()], found["runs_resumed_total", ()]) == (1, 1)
    assert (found["run_round", ("one",)], found["run_accuracy", ("one",)]) == (4, 0.75)


def test_records_of_another_form_do_no_harm(tmp_path: Path, look: Callable[[], Values]) -> None:
    folder = tmp_path / "results" / "one"
    write(folder, STARTED)
    odd: list[Any] = [
        {}, {"time": NOW}, {"event": "round_finished", "time": NOW}, {"event": ["x"], "time": "never"},
        {"event": "run_started", "time": NOW, "settings": 3}, {"event": "phase_finished", "time": NOW, "phase": {}},
        {"event": "reply_accepted", "time": NOW, "phase": "train", "client": "x", "seconds": "y"},
    ]  # fmt: skip
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(f"{json.dumps(each)}\n" for each in odd)
    write(folder, round_finished(1, 0.5))
    assert look()["rounds_finished_total", ()] == 1


def test_no_words_from_outside_make_more_series() -> None:
    registry = CollectorRegistry()
    measures = Measures(registry)
    for number in range(2 * MOST_CLIENTS):
        client = events.Client(number, None, f'a"\n{number}')
        for event in (
            accepted(client, f"query.{number}"),
            events.ReplyRejected(1, "train", client, f"error 1: {number}"),
            events.RunFinished(f"status {number}", 1, 1.0),
        ):
            measures.take(f"run {number}", {"event": event.name(), "time": NOW, **asdict(event)})
    found = values(registry)
    assert found["reply_failures_total", ("error", "train")] == 2 * MOST_CLIENTS
    assert found["replies_total", ("accepted", "other")] == 2 * MOST_CLIENTS
    assert len(found) < MOST_CLIENTS + 250 and len(measures.runs) == MOST_RUNS
    assert found["client_reply_seconds", ('a"\n7', "other")] == 2.5, "a name is escaped"


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("error 0: this client's site requires privacy=local", "site_rules"),
        ("error 1: CUDA is not finite", "error"),
        ("the SuperLink refused its reply: too large", "refused"),
        ("its metric train_loss is not finite", "not_finite"),
        ("its update is 3 long, more than the plausible 2", "update_size"),
        ("something new", "other"),
    ],
)
def test_reasons_are_classed(reason: str, word: str) -> None:
    assert reason_class(reason) == word
    assert len(REASONS) < 20


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server whose connections end after a second."""
    monkeypatch.setattr(server, "LONGEST_S", 1.0)
    serving = server.serve("127.0.0.1", 0, CollectorRegistry())
    yield int(serving.server_address[1])
    serving.shutdown()
    serving.server_close()


def fetch(port: int, path: str = "/metrics") -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return int(answer.status)


def test_connections_that_are_held_open_keep_nobody_out_and_end(served: int) -> None:
    idle = [socket.create_connection(("127.0.0.1", served)) for _ in range(4 * server.MOST_CONNECTIONS)]
    idle[-1].sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    assert fetch(served) == 200
    for connection in idle:
        connection.settimeout(20)
        with connection:
            try:
                while connection.recv(1024):
                    pass  # the words of an error
            except ConnectionResetError:
                pass


def test_a_connection_that_is_fed_a_byte_at_a_time_ends_too(served: int) -> None:
    with socket.create_connection(("127.0.0.1", served)) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        with pytest.raises(OSError):
            for _ in range(100):
                slow.sendall(b"X")
                time.sleep(0.1)


def test_only_metrics_are_served(served: int) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(served, "/")
