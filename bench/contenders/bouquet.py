"""Bouquet itself: `bouquet up` in plain processes, and `make run` in containers."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from bench import compose
from bench.contenders.contract import Measurement, Workload
from bench.contenders.stock_flower import TIMEOUT_PER_ROUND_S
from bench.environments import ROOT
from bench.processes import BenchError, Processes


def read_summary(results: Path, rounds: int) -> dict[str, Any]:
    """`summary.json` of the latest run under `results`, checked for being complete."""
    file = results / "latest" / "summary.json"
    try:
        summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"no summary of the run in {file}: {error}") from None
    if len(summary["round_s"]) != rounds or summary.get("failures"):
        raise BenchError(f"the run is incomplete or had failures; see {file}")
    return summary


def up_command(workload: Workload, results: Path, config: str = "") -> list[str]:
    """The command for a federation of plain processes."""
    settings = f"fraction-evaluate={workload.fraction_evaluate} model='{workload.model}' {config}".strip()
    return [
        *(sys.executable, "-m", "app.cli", "up"),
        *("--data", str(workload.store), "--results", str(results), "--app", str(ROOT)),
        *("--clients", str(workload.clients), "--rounds", str(workload.rounds), "--config", settings),
    ]


class Up:
    """`bouquet up`: SuperLink, ten SuperNodes and the run, as plain processes."""

    key = "bouquet"
    title = "Bouquet, plain processes"

    def missing(self, workload: Workload) -> str:
        """Always here."""
        return ""

    def measure(self, workload: Workload, scratch: Path) -> Measurement:
        """Run the command; times of the rounds come from its summary."""
        started = time.monotonic()
        with Processes(scratch, {"PYTHONPATH": str(ROOT)}) as processes:
            command = up_command(workload, scratch / "results")
            for _ in processes.run("up", command, TIMEOUT_PER_ROUND_S * (workload.rounds + 1), cwd=ROOT):
                pass
        command_s = time.monotonic() - started
        summary = read_summary(scratch / "results", workload.rounds)
        return Measurement(
            round_s=summary["round_s"],
            accuracy=summary["accuracy"],
            # It submits before its clients are up, so the whole command is what a person waits for.
            run_s=command_s,
            command_s=command_s,
            note=f"{summary['wall_s']:.1f} s of it in the ServerApp",
        )


class Containers:
    """`make run MODE=compose-cpu`, or `compose-gpu` where there is a GPU. Images are built beforehand."""

    key = "compose"

    def __init__(self, gpu: bool) -> None:
        self.mode = "compose-gpu" if gpu else "compose-cpu"
        self.title = f"Bouquet, containers ({self.mode})"

    def missing(self, workload: Workload) -> str:
        """Needs Docker with Compose, and make."""
        if not (ROOT / "Makefile").exists() or shutil.which("make") is None:
            return "no make or Makefile"
        if problem := compose.missing():
            return problem
        if not workload.folder.is_dir():
            return "the data set is no folder"
        return ""

    def measure(self, workload: Workload, scratch: Path) -> Measurement:
        """One `make run`, in a Compose project of its own that is removed afterwards."""
        settings = f"fraction-evaluate={workload.fraction_evaluate} model='{workload.model}'"
        variables = [
            f"MODE={self.mode}",
            f"ROUNDS={workload.rounds}",
            f"CLIENTS={workload.clients}",
            f"DATASET={workload.folder}",
            f"CONFIG={settings}",
        ]
        results = ROOT / "results"  # where `make run` copies them to
        before = _latest(results)
        started = time.monotonic()
        with compose.project(scratch) as (_, processes):
            command = ["make", "--no-print-directory", "run", *variables]
            limit = TIMEOUT_PER_ROUND_S * (workload.rounds + 2)
            for _ in processes.run("make", command, limit, cwd=ROOT):
                pass
            command_s = time.monotonic() - started
        if _latest(results) == before:
            raise BenchError(f"`make run` left no new results; see {scratch / 'make.log'}")
        summary = read_summary(results, workload.rounds)
        return Measurement(
            round_s=summary["round_s"],
            accuracy=summary["accuracy"],
            command_s=command_s,  # with `prepare`, which reads the data set anew
            note=f"{summary['wall_s']:.1f} s of it in the ServerApp",
        )


def _latest(results: Path) -> Path:
    return (results / "latest").resolve()
