"""The table of faults and what each has cost, which the tests of ``tests/faults`` write at their end."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One row.

    Attributes:
        name: what was broken.
        injected_at: what the run was doing.
        rounds_lost: rounds that were begun and run again.
        seconds_lost: what the round that it hit and the next took beyond two undisturbed ones of the same run.
        result: what the run told about it.
        client: the client that was broken; empty for a part of the server.
    """

    name: str
    injected_at: str
    rounds_lost: int
    seconds_lost: float
    result: str
    client: str = ""


TABLE: list[Fault] = []  # of the test that runs


def as_markdown(faults: Iterable[Fault]) -> str:
    """The table."""
    rows = ["| fault | injected at | rounds lost | seconds lost | result |", "|---|---|---|---|---|"]
    for each in faults:
        cells = (each.name, each.injected_at, str(each.rounds_lost), f"{each.seconds_lost:.1f}", each.result)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
