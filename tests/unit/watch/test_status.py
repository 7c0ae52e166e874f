"""`bouquet status`: the members that the SuperLink knows, with what the events of the latest run tell of them."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.fleet.identity.members import Member
from app.rounds import events
from app.rounds.results import EventLog
from app.watch.status import Run, as_json, as_table, headline, latest_run, rows

A, B = events.Client(1, 0, "hospital-a"), events.Client(2, None, "hospital-b")
SEEN = datetime(2026, 11, 30, 12, 0, 5, tzinfo=UTC)
MEMBERS = [
    Member("hospital-a", "SHA256:a", 1, "online", SEEN, b""),
    Member("hospital-b", "SHA256:b", 2, "offline", SEEN, b""),
    Member("hospital-c", "SHA256:c", 3, "enrolled", None, b""),
    Member("hospital-d", "SHA256:d", 4, "revoked", SEEN, b""),
]


def accepted(client: events.Client, round_: int, phase: str, seconds: float) -> events.ReplyAccepted:
    return events.ReplyAccepted(round_, phase, client, 10, 0.5, 0.5, seconds, 1, 1, "cpu")


def finished(round_: int) -> events.RoundFinished:
    numbers: dict[str, Any] = dict.fromkeys(events.RoundFinished.__dataclass_fields__)
    return events.RoundFinished(**numbers | {"round": round_, "rounds": 5})


STARTED = events.RunStarted("7", "hosts", "digits", "", [3, 32, 32], ["a", "b"], {"num-server-rounds": 5}, {})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "20261130-7").mkdir()
    (tmp_path / "latest").symlink_to("20261130-7")
    return tmp_path


def write(results: Path, *happened: events.Event) -> Run:
    log = EventLog(results / "latest")
    for event in happened:
        log.take(event, {"event": event.name(), **asdict(event)})
    return latest_run(results)


def test_each_member_is_shown_with_its_work(results: Path) -> None:
    run = write(
        results, STARTED,
        accepted(A, 1, "train", 2.0), events.ReplyRejected(1, "train", B, "it is not finite"),
        accepted(A, 1, "evaluate", 1.0), finished(1),
        accepted(A, 2, "train", 3.0), events.ClientLost(2, "train", B), events.ReplyLate(2, "train", B, "lost"),
    )  # fmt: skip
    assert headline(run) == "run 20261130-7: running, round 1 of 5"
    assert as_table(rows(MEMBERS, run)).splitlines() == [
        "NAME        STATUS    LAST SEEN            PARTITION  DEVICE  ROUND  S/ROUND  FAILURES",
        "hospital-a  online    2026-11-30 12:00:05  0          cpu     2      3.0      0",
        "hospital-b  offline   2026-11-30 12:00:05  -          -       -      -        2",
        "hospital-c  enrolled  never                -          -       -      -        0",
    ]


def test_what_was_done_after_the_checkpoint_does_not_count(results: Path) -> None:
    run = write(
        results, STARTED, accepted(A, 1, "train", 2.0), finished(1), accepted(A, 2, "train", 9.0),
        events.ReplyLate(2, "train", B, "cut off"), events.RunResumed(1, "checkpoint/1", []),
    )  # fmt: skip
    assert run.clients[1].seconds == {1: 2.0} and 2 not in run.clients


def test_programs_get_the_same(results: Path) -> None:
    run = write(
        results, STARTED, accepted(A, 1, "train", 2.5), finished(1),
        events.RunFinished("subset", 1, 9.0, 0.5, 0.5, "", "1 of 3"),
    )  # fmt: skip
    answer = json.loads(as_json(rows(MEMBERS, run), run))
    assert answer["schema_version"] == 1
    assert answer["run"] == {"name": "20261130-7", "state": "subset", "round": 1, "rounds": 5}
    assert answer["members"][0] == {
        "name": "hospital-a", "status": "online", "last_seen": "2026-11-30T12:00:05+00:00", "node_id": 1,
        "partition_id": 0, "device": "cpu", "last_round": 1, "seconds_per_round": 2.5, "failures": 0,
    }  # fmt: skip


def test_without_a_run_there_are_the_members_alone(tmp_path: Path) -> None:
    run = latest_run(tmp_path)
    assert headline(run) == "there has been no run" and json.loads(as_json([], run))["run"] is None
    assert [row.failures for row in rows(MEMBERS, run)] == [0, 0, 0]
