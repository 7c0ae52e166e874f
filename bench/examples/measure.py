"""Each app on Bouquet and on stock Flower, with the same packages and data, one after the other."""

import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import hub
from bench.contenders.stock_flower import deploy, flwr_run, quiet_commands
from bench.environments import ROOT
from bench.examples import containers
from bench.examples.apps import ROUNDS_KEY, Example, copied, surroundings
from bench.examples.data_sets import Shelf
from bench.processes import BenchError, Processes

# What Flower's two loops log at their end, and at the beginning of each round.
_END = re.compile(r"(Strategy execution finished|Run finished \d+ round\(s\)) in [\d.]+s")
# `flwr run` ends with status 0 whatever came of the run; these are Flower's lines in both styles of app.
_FAILED = re.compile(r"Exit Code: [1-9]|results and [1-9]\d* failures")
_ROUND = re.compile(r"\[ROUND \d+(/\d+)?\]")
# How Bouquet says what was wrong; Flower's own log ends with a traceback.
_WRONG = re.compile(
    r"^error: |^\S+ failed: |replies were errors: |> Received error in reply |^\w+(\.\w+)*(Error|Exception): "
)


Run = Callable[[Path, str, int, Processes, float], Iterable[str]]


@dataclass
class Ran:
    """One app on one contender."""

    problem: str = ""
    round_s: list[float] = field(default_factory=list)
    """Seconds of each round, as the lines of the app's log came; empty where it has a loop of its own."""
    command_s: float = 0.0

    @property
    def warm_s(self) -> float | None:
        """Mean seconds of the rounds after the first, which loads the app on Bouquet."""
        return statistics.fmean(self.round_s[1:]) if self.round_s[1:] else None


@dataclass
class Row:
    """One app."""

    name: str
    given_up: list[str] = field(default_factory=list)
    added: bool = False
    made_up: list[str] = field(default_factory=list)
    runs: dict[str, Ran] = field(default_factory=dict)
    problem: str = ""


@dataclass
class Report:
    """All apps of a folder."""

    folder: str
    clients: int
    rounds: int
    machine: dict[str, Any]
    in_containers: bool = False
    rows: list[Row] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def measure(
    examples: Iterable[Example],
    report: Report,
    workspace: Path,
    limit_s: float,
    echo: Callable[[str], None],
    keep: Callable[[Report], None],
) -> Report:
    """Fill the rows of `report`, and hand it to `keep` after each."""
    shelf = Shelf(workspace / "hub")
    with hub.serving(shelf.find) as port:
        for example in examples:
            row = Row(example.name)
            report.rows.append(row)
            scratch = workspace / example.name
            try:
                _measure(
                    example,
                    row,
                    report,
                    scratch,
                    hub.environment(port, scratch / "cache"),
                    limit_s,
                    echo,
                    shelf,
                )
            except BenchError as error:
                row.problem = str(error)
                echo(f"{row.name}: {row.problem}")
            if shelf.missing:
                row.problem = (
                    row.problem or f"no stand-in for the data set {', '.join(sorted(shelf.missing))}"
                )
            row.made_up = sorted(shelf.given)
            shelf.missing.clear()
            shelf.given.clear()
            keep(report)
    return report


def _measure(
    example: Example,
    row: Row,
    report: Report,
    scratch: Path,
    environment: dict[str, str],
    limit_s: float,
    echo: Callable[[str], None],
    shelf: Shelf,
) -> None:
    app = copied(example, scratch / "app")
    packages, row.given_up = surroundings(example)
    row.added = packages is not None
    shared = {
        **environment,
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, [packages, os.environ.get("PYTHONPATH")]))),
        "OMP_NUM_THREADS": "1",
    }
    config = f"{ROUNDS_KEY}={report.rounds}" if ROUNDS_KEY in example.config else ""
    contenders: dict[str, Run] = {"bouquet": _bouquet, "stock": _stock}
    if report.in_containers:  # last, when the data sets are made that it asks for
        contenders["containers"] = _in_containers(shelf)
    for key, run in contenders.items():
        echo(f"{row.name}: {key} …")
        row.runs[key] = _timed(run, app, config, report.clients, scratch / key, shared, limit_s)
        done = row.runs[key]
        per_round = f"{done.warm_s:.2f} s a round" if done.warm_s else f"{done.command_s:.0f} s in all"
        echo(f"{row.name}: {key}: {done.problem or per_round}")


def _timed(
    run: Run, app: Path, config: str, clients: int, scratch: Path, shared: dict[str, str], limit_s: float
) -> Ran:
    ran, started, marks, wrong, failed = Ran(), time.monotonic(), list[float](), "", False
    try:
        with Processes(scratch, {**shared, **quiet_commands(scratch)}) as processes:
            for line in run(app, config, clients, processes, limit_s):
                if _ROUND.search(line) or _END.search(line):
                    marks.append(time.monotonic())
                elif found := _WRONG.search(line):
                    wrong = wrong or line[found.start() :].strip()[:200]
                failed = failed or bool(_FAILED.search(line))
    except BenchError as error:
        late = time.monotonic() - started >= limit_s
        ran.problem = f"took more than {limit_s:.0f} s" if late else wrong or str(error)
    if failed and not ran.problem:
        ran.problem = wrong or "its ServerApp failed, or clients did"
    ran.round_s = [round(after - before, 3) for before, after in pairwise(marks)]
    ran.command_s = time.monotonic() - started
    return ran


def _bouquet(app: Path, config: str, clients: int, processes: Processes, limit_s: float) -> Iterable[str]:
    """`bouquet up`; an app that fetches its data from a hub makes connections."""
    environment = ["env", "BOUQUET_CONFINEMENT=off"]
    path = os.pathsep.join(filter(None, [str(ROOT), processes.env["PYTHONPATH"]]))
    command = [
        *environment, f"PYTHONPATH={path}", sys.executable, "-m", "app.cli", "up", "--app", str(app),
        "--clients", str(clients), "--results", str(processes.logs / "results"), "--config", config,
    ]  # fmt: skip
    return processes.run("up", command, limit_s, cwd=processes.logs)


def _in_containers(shelf: Shelf) -> Run:
    def run(app: Path, config: str, clients: int, processes: Processes, limit_s: float) -> Iterable[str]:
        return containers.run(app, config, clients, processes, limit_s, shelf.made())

    return run


def _stock(app: Path, config: str, clients: int, processes: Processes, limit_s: float) -> Iterable[str]:
    """Flower's own commands."""
    return flwr_run(processes, app, deploy(processes, clients), config, limit_s)
