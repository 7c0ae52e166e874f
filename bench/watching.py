"""What watching costs: ten clients with everything on that looks at a run, and with nothing, in turn.

On: metrics that are scraped every five seconds, TensorBoard beside the run with its page, and MLflow. MLflow writes to a folder,
because a server would be on another machine. What the run itself writes (events, history, summary) is on in both.

The rounds of the second half count: before that TensorBoard and MLflow start, once a run. Three figures come out: the CPU time of what
watches beside that of the federation, in one run; and between the two runs, the ratios of the CPU time of a round and of its seconds.
On a machine with other work only the first says much. Scraping is part of the SuperLink's time, and so of the ratios alone.
"""

import json
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.contenders.bouquet import read_summary, up_command
from bench.contenders.contract import Workload
from bench.environments import ROOT
from bench.machine import describe
from bench.processes import BenchError, Processes, free_ports
from bench.watch import cpu_s

GOAL = 1.02
SCRAPE_S, LOOK_S = 5.0, 0.2


@dataclass(slots=True)
class Rounds:
    """The rounds of the second half of a run, the last one left out: CPU seconds of each, those of what watches, and seconds."""

    cpu_s: float
    watching_s: float
    seconds: list[float]


def run(workload: Workload, config: str, repeat: int, echo: Callable[[str], None]) -> dict[str, Any]:
    """Measure pairs; which of the two comes first changes from pair to pair."""
    pairs: list[dict[str, Any]] = []
    for number in range(repeat):
        found: dict[bool, Rounds] = {}
        for on in (False, True) if number % 2 == 0 else (True, False):
            scratch = workload.workspace / f"{number}-{'on' if on else 'off'}"
            found[on] = _rounds(workload, scratch, config, on)
        cpu = found[True].cpu_s / found[False].cpu_s
        own = 1 + found[True].watching_s / (found[True].cpu_s - found[True].watching_s)
        seconds = statistics.median(found[True].seconds) / statistics.median(found[False].seconds)
        pairs.append(
            {
                "cpu": cpu,
                "seconds": seconds,
                "own": own,
                "off": asdict(found[False]),
                "on": asdict(found[True]),
            }
        )
        echo(f"pair {number + 1} of {repeat}: what watches {own:.3f}, CPU {cpu:.3f}, seconds {seconds:.3f}")
    ratios = {name: statistics.median(pair[name] for pair in pairs) for name in ("own", "cpu", "seconds")}
    shape = {"clients": workload.clients, "rounds": workload.rounds}
    return {"machine": describe(), **shape, **ratios, "pairs": pairs}


def _rounds(workload: Workload, scratch: Path, config: str, on: bool) -> Rounds:
    metrics, page = free_ports(2)
    watched = ["--metrics", str(metrics), "--monitor", "--tensorboard", str(page)] if on else []
    tracking = {"MLFLOW_TRACKING_URI": f"file://{scratch}/mlflow", "MLFLOW_ALLOW_FILE_STORE": "true"}
    command = [*up_command(workload, scratch / "results", config), *watched]
    first, last = workload.rounds // 2, workload.rounds - 1
    spent: dict[int, tuple[float, float]] = {}
    with Processes(scratch, {"PYTHONPATH": str(ROOT), **(tracking if on else {})}) as processes:
        up = processes.start("up", command, cwd=ROOT)
        with _scraping(metrics if on else 0):
            while up.poll() is None:
                time.sleep(LOOK_S)
                done = _done(scratch / "results")
                for at in (first, last):
                    if done >= at and at not in spent:
                        members = processes.members()
                        spent[at] = cpu_s(members), cpu_s([each for each in members if _watches(each)])
    seconds = read_summary(scratch / "results", workload.rounds)["round_s"]
    if last not in spent:
        raise BenchError(f"the rounds are too short to be watched; see {scratch / 'up.log'}")
    every, watching = ((spent[last][of] - spent[first][of]) / (last - first) for of in (0, 1))
    return Rounds(every, watching, seconds[first:last])


def _watches(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        line = " ".join(process.cmdline())
        return "app.cli monitor" in line or "tensorboard" in line.partition("--logdir")[0]
    return False


def _done(results: Path) -> int:
    with suppress(OSError, ValueError, KeyError):
        return len(json.loads((results / "latest" / "summary.json").read_text(encoding="utf-8"))["round_s"])
    return 0


@contextmanager
def _scraping(port: int) -> Iterator[None]:
    """Fetch the metrics as Prometheus does, in the background; not with port 0."""
    over = threading.Event()

    def fetch() -> None:
        while port and not over.wait(SCRAPE_S):
            with (
                suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as got,
            ):
                got.read()

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def lines(found: dict[str, Any]) -> list[str]:
    """The figures in words."""
    cpu, seconds = ([pair[name] for pair in found["pairs"]] for name in ("cpu", "seconds"))
    return [
        f"watching: with what watches a round takes {found['own']:.3f} times the CPU time (goal: at most {GOAL})",
        f"    beside runs with nothing on: {found['cpu']:.3f}; {len(cpu)} pairs, {min(cpu):.3f} to {max(cpu):.3f}",
        f"    its seconds: {found['seconds']:.3f} ({min(seconds):.3f} to {max(seconds):.3f}); {found['clients']} clients, "
        f"{found['rounds']} rounds",
    ]


def write(found: dict[str, Any], folder: Path) -> None:
    """Write watching.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "watching.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
