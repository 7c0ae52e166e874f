"""What watching costs: ten clients with everything on that looks at a run, and with nothing, in turn.

On: metrics that are scraped every five seconds, TensorBoard beside the run with its page, and MLflow. MLflow writes to a folder,
because a server would be on another machine. What the run itself writes (events, history, summary) is on in both.
"""

import json
import statistics
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.contenders.bouquet import read_summary, up_command
from bench.contenders.contract import Workload
from bench.environments import ROOT
from bench.machine import describe
from bench.processes import Processes, free_ports

GOAL = 1.02
SCRAPE_S = 5.0
TIMEOUT_S = 1800.0


@dataclass(slots=True)
class Pair:
    """One run of each kind: seconds of the rounds after the first."""

    off: list[float]
    on: list[float]
    scrapes: int

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return statistics.median(self.on) / statistics.median(self.off)


def run(workload: Workload, config: str, repeat: int, echo: Callable[[str], None]) -> dict[str, Any]:
    """Measure pairs; which of the two comes first changes from pair to pair."""
    pairs: list[Pair] = []
    for number in range(repeat):
        seconds: dict[bool, list[float]] = {}
        scrapes = 0
        for on in (False, True) if number % 2 == 0 else (True, False):
            scratch = workload.workspace / f"{number}-{'on' if on else 'off'}"
            seconds[on], done = _rounds(workload, scratch, config, on)
            scrapes += done
        pairs.append(Pair(seconds[False], seconds[True], scrapes))
        echo(f"pair {number + 1} of {repeat}: {pairs[-1].ratio:.3f}")
    return {
        "machine": describe(),
        "clients": workload.clients,
        "rounds": workload.rounds,
        "pairs": [asdict(pair) | {"ratio": pair.ratio} for pair in pairs],
        "ratio": statistics.median(pair.ratio for pair in pairs),
    }


def _rounds(workload: Workload, scratch: Path, config: str, on: bool) -> tuple[list[float], int]:
    """Seconds of the rounds after the first, and how often the metrics were fetched."""
    metrics, page = free_ports(2)
    watched = ["--metrics", str(metrics), "--monitor", "--tensorboard", str(page)] if on else []
    tracking = {"MLFLOW_TRACKING_URI": f"file://{scratch}/mlflow", "MLFLOW_ALLOW_FILE_STORE": "true"}
    command = [*up_command(workload, scratch / "results", config), *watched]
    environment = {"PYTHONPATH": str(ROOT), **(tracking if on else {})}
    with Processes(scratch, environment) as processes, _scraping(metrics if on else 0) as scrapes:
        for _ in processes.run("up", command, TIMEOUT_S, cwd=ROOT):
            pass
    return read_summary(scratch / "results", workload.rounds)["round_s"][1:], len(scrapes)


@contextmanager
def _scraping(port: int) -> Iterator[list[int]]:
    """Fetch the metrics as Prometheus does, meanwhile; the sizes that came."""
    over, sizes = threading.Event(), list[int]()

    def fetch() -> None:
        while not over.wait(SCRAPE_S):
            with (
                suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as got,
            ):
                sizes.append(len(got.read()))

    thread = threading.Thread(target=fetch, daemon=True)
    if port:
        thread.start()
    try:
        yield sizes
    finally:
        over.set()
        if port:
            thread.join()


def lines(found: dict[str, Any]) -> list[str]:
    """The figures in words."""
    ratios = [pair["ratio"] for pair in found["pairs"]]
    off = [second for pair in found["pairs"] for second in pair["off"]]
    return [
        f"watching: a round with everything on takes {found['ratio']:.3f} times as long (goal: at most {GOAL}); "
        f"{len(ratios)} pairs, {min(ratios):.3f} to {max(ratios):.3f}",
        f"    {found['clients']} clients, {found['rounds']} rounds each; a round with nothing on takes "
        f"{statistics.median(off):.2f} s",
    ]


def write(found: dict[str, Any], folder: Path) -> None:
    """Write watching.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "watching.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
