"""What of a run is drawn: numbers by round, of the run and of each client."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from app.watch.runs import Record

MOST_CLIENTS = 100  # of a run, with lines of their own: nobody reads more


class Point(NamedTuple):
    """One number.

    Attributes:
        client: whose it is, as people call it; empty for the run's own.
        tag: what it is, such as ``accuracy/server``.
        step: the round.
    """

    client: str
    tag: str
    step: int
    value: float


def points(record: Record) -> Iterator[Point]:
    """The numbers that a record tells. Raises KeyError, TypeError or ValueError for one of another form."""
    match record["event"]:
        case "round_finished":
            told = {
                "accuracy/server": record["accuracy"],
                "accuracy/clients": record["client_accuracy"],
                "loss/server": record["loss"],
                "loss/training": record["train_loss"],
                "seconds/round": record["seconds"],
                "privacy/epsilon": (record.get("privacy") or {}).get("epsilon"),
            }
            yield from _points("", record, told)
        case "phase_finished":
            phase = record["phase"]
            told = {f"seconds/{phase}": record["seconds"]}
            for direction in ("down", "up"):
                told[f"bytes/{phase} {direction}"] = record[f"bytes_{direction}"]
            for outcome in ("accepted", "rejected", "late"):
                told[f"replies/{phase} {outcome}"] = record[outcome]
            yield from _points("", record, told)
        case "reply_accepted":
            phase = record["phase"]
            told = {
                f"clients/{phase} accuracy": record["accuracy"],
                f"clients/{phase} loss": record["loss"],
                f"clients/{phase} seconds": record["seconds"],
                f"clients/{phase} bytes up": record["bytes_up"],
                "clients/update length": record.get("update_length"),
            }
            yield from _points(label(record["client"]), record, told)


def _points(client: str, record: Record, told: dict[str, Any]) -> Iterator[Point]:
    for tag, value in told.items():
        if value is not None and math.isfinite(number := float(value)):
            yield Point(client, tag, int(record["round"]), number)


def label(client: Record) -> str:
    """What people call a client."""
    if client.get("name"):
        return str(client["name"])
    partition = client.get("partition_id")
    return f"node {client['node_id']}" if partition is None else f"partition {partition}"
