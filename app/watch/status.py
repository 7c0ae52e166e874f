"""Who is there, and how each client does: the members that the SuperLink knows, with what the latest run tells of them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from app.errors import UserError
from app.fleet.identity.members import Member
from app.watch import runs

SCHEMA_VERSION = 1
FAILURES = ("reply_rejected", "reply_late")
_COLUMNS = ("NAME", "STATUS", "LAST SEEN", "PARTITION", "DEVICE", "ROUND", "S/ROUND", "FAILURES")


@dataclass
class Work:
    """What a run tells of one client.

    Attributes:
        partition_id: as the client says; None while unknown.
        device: where it trained last.
        seconds: from sending to its replies, by round.
        failures: how often a reply of it was left out, or did not come.
    """

    partition_id: int | None = None
    device: str = ""
    seconds: dict[int, float] = field(default_factory=dict)
    failures: int = 0


@dataclass
class Run:
    """The latest run.

    Attributes:
        name: of its folder; empty where there is none.
        state: ``running``, or how it ended.
        round: the last round that is finished.
        rounds: that were asked for; 0 while unknown.
        clients: what each did, by node id.
    """

    name: str = ""
    state: str = ""
    round: int = 0
    rounds: int = 0
    clients: dict[int, Work] = field(default_factory=lambda: defaultdict(Work))


@dataclass(frozen=True)
class Row:
    """One member."""

    name: str
    status: str
    last_seen: datetime | None
    node_id: int
    partition_id: int | None
    device: str
    last_round: int | None
    seconds_per_round: float | None
    failures: int


def latest_run(results: Path) -> Run:
    """What the events of the latest run in a results folder tell; an empty one where there is no run."""
    try:
        folder = runs.find(results)
        records = runs.records(folder)
    except (UserError, OSError):
        return Run()
    run = Run(name=folder.name, state="running")
    for record in records:
        _take(run, record)
    return run


def _take(run: Run, record: Mapping[str, Any]) -> None:
    event = record.get("event")
    if event == "run_started":
        run.state, run.rounds = "running", int(record["settings"].get("num-server-rounds", 0))
    elif event == "round_finished":
        run.round, run.rounds = record["round"], record["rounds"]
    elif event == "run_finished":
        run.state = record["status"]
    elif event == "run_resumed":
        run.state = "running"
    elif event == "reply_accepted" or event in FAILURES:
        work = run.clients[record["client"]["node_id"]]
        work.partition_id = record["client"].get("partition_id", work.partition_id)
        if event in FAILURES:
            work.failures += 1
        else:
            work.device = record["device"]
            work.seconds[record["round"]] = work.seconds.get(record["round"], 0.0) + record["seconds"]


def rows(members: Iterable[Member], run: Run) -> list[Row]:
    """The members that belong, by name, with their work. Members that were revoked are left out."""
    found = []
    for member in members:
        if member.status == "revoked":
            continue
        work = run.clients.get(member.node_id, Work())
        found.append(
            Row(
                member.name,
                member.status,
                member.last_seen,
                member.node_id,
                work.partition_id,
                work.device,
                max(work.seconds, default=None),
                round(fmean(work.seconds.values()), 3) if work.seconds else None,
                work.failures,
            )
        )
    return found


def headline(run: Run) -> str:
    """The run in one line."""
    if not run.name:
        return "there has been no run"
    return f"run {run.name}: {run.state}, round {run.round} of {run.rounds or '?'}"


def as_table(listed: list[Row]) -> str:
    """The members for people. Times are UTC."""
    lines = [_COLUMNS, *(_cells(row) for row in listed)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        row.status,
        f"{row.last_seen:%Y-%m-%d %H:%M:%S}" if row.last_seen else "never",
        "-" if row.partition_id is None else str(row.partition_id),
        row.device or "-",
        "-" if row.last_round is None else str(row.last_round),
        "-" if row.seconds_per_round is None else f"{row.seconds_per_round:.1f}",
        str(row.failures),
    )


def as_json(listed: list[Row], run: Run) -> str:
    """The same for programs, in one line."""
    members = [
        asdict(row) | {"last_seen": row.last_seen.isoformat() if row.last_seen else None} for row in listed
    ]
    shown = {"name": run.name, "state": run.state, "round": run.round, "rounds": run.rounds}
    return json.dumps(
        {"schema_version": SCHEMA_VERSION, "run": shown if run.name else None, "members": members}
    )
