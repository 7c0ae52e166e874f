"""The living table of other people's apps, as Markdown and JSON."""

import json
from collections.abc import Iterator
from pathlib import Path

from bench.examples.measure import Ran, Report, Row
from bench.machine import one_line

HEADING = (
    "app",
    "Bouquet",
    "in containers",
    "stock Flower",
    "first round",
    "a round after it",
    "times as fast",
    "its surroundings",
)


def cells(row: Row) -> list[str]:
    """One line of the table."""
    bouquet, stock, boxed = (row.runs.get(key) for key in ("bouquet", "stock", "containers"))
    runs = [ran if ran and not ran.problem and ran.warm_s else None for ran in (bouquet, stock)]
    ours, theirs = (ran.warm_s if ran else None for ran in runs)
    return [
        row.name,
        _verdict(bouquet, row.problem),
        _boxed(boxed, row.problem),
        _verdict(stock, row.problem),
        ", ".join(f"{ran.round_s[0]:.1f} s" if ran else "?" for ran in runs) if any(runs) else "",
        ", ".join(f"{each:.1f} s" if each else "?" for each in (ours, theirs)) if any(runs) else "",
        f"{theirs / ours:.1f}" if ours and theirs else "",
        "; ".join(_surroundings(row)),
    ]


def _surroundings(row: Row) -> Iterator[str]:
    if row.made_up:
        yield f"made-up data for {', '.join(row.made_up)}"
    if row.given_up:
        yield f"not the pinned {', '.join(row.given_up)}"
    if row.added:
        yield "packages that are not ours"


def _boxed(ran: Ran | None, problem: str) -> str:
    told = _verdict(ran, problem)
    return f"{told}, {ran.warm_s:.1f} s a round" if told == "runs" and ran and ran.warm_s else told


def _verdict(ran: Ran | None, problem: str) -> str:
    if problem or ran is None:
        return problem or "not tried"
    return ran.problem or "runs"


def markdown(report: Report) -> str:
    """The table, and under which circumstances it came out."""
    lines = [HEADING, ["---"] * len(HEADING), *map(cells, report.rows)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    return f"{table}\n\nSeconds of Bouquet, then of stock Flower. {report.clients} clients, {report.rounds} rounds. {one_line(report.machine)}\n"


def write(report: Report, folder: Path) -> None:
    """Write `examples.md` and `examples.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "examples.md").write_text(markdown(report), encoding="utf-8")
    (folder / "examples.json").write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
