"""All contenders on the same data and machine, interleaved and repeated."""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.contenders.arithmetic import Arithmetic
from bench.contenders.bouquet import Containers, Up
from bench.contenders.contract import Contender, Measurement, Workload
from bench.contenders.flare import Flare
from bench.contenders.stock_flower import Deployment, Simulation
from bench.environments import FLARE, RAY
from bench.processes import BenchError

BASELINE = "arithmetic"
SLOW = ("stock", "stock-1t", "ray", "ray-tuned")
"""Measured once unless asked otherwise: minutes per round."""


def contenders(gpu: bool) -> list[Contender]:
    """Every row of the table, in its order."""
    return [
        Arithmetic("plain"),
        Arithmetic("bouquet"),
        Up(),
        Containers(gpu),
        Flare(FLARE, tuned=True),
        Flare(FLARE, tuned=False),
        Simulation(RAY, tuned=True),
        Simulation(RAY, tuned=False),
        Deployment(one_thread=True),
        Deployment(one_thread=False),
    ]


@dataclass(slots=True)
class Row:
    """One contender's measurements."""

    key: str
    title: str
    measurements: list[Measurement] = field(default_factory=list)
    problem: str = ""

    @property
    def warm(self) -> list[float]:
        """Seconds of every round after the first, over all repetitions."""
        return [s for m in self.measurements for s in (m.round_s[1:] or m.round_s)]

    @property
    def epochs(self) -> list[float]:
        """The arithmetic rows: seconds of every round's training alone, after the first."""
        return [s for m in self.measurements for s in (m.epochs_s[1:] or m.epochs_s)]

    def median(self, name: str) -> float | None:
        """Median over the repetitions of `run_s`, `command_s`, `accuracy`, or `first`."""
        values = [m.round_s[0] if name == "first" else getattr(m, name) for m in self.measurements]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None


@dataclass(slots=True)
class Comparison:
    """What one run of the benchmark found."""

    workload: dict[str, Any]
    machine: dict[str, Any]
    rows: list[Row]
    load: list[tuple[str, float]] = field(default_factory=list)
    """One-minute load average before each measurement: tells a quiet machine from a busy one."""

    def row(self, key: str) -> Row | None:
        """The row with this key, if it has measurements."""
        return next((row for row in self.rows if row.key == key and row.measurements), None)

    def baseline(self, evaluation: bool) -> float | None:
        """Median seconds of the arithmetic alone, in a plain PyTorch loop.

        Of the epochs alone; with `evaluation`, of the epochs and the same evaluations as in the contenders' rounds.
        """
        row = self.row(BASELINE)
        return statistics.median(row.warm if evaluation else row.epochs) if row else None

    def as_json(self) -> dict[str, Any]:
        """Everything, for `bench.json`."""
        strict, full = self.baseline(False), self.baseline(True)
        rows = []
        for row in self.rows:
            warm = statistics.median(row.warm) if row.measurements else None
            rows.append(
                {
                    "key": row.key,
                    "title": row.title,
                    "problem": row.problem,
                    "warm_round_s": warm,
                    "ratio_to_epochs": warm / strict if warm and strict else None,
                    "ratio_to_epochs_and_evaluation": warm / full if warm and full else None,
                    "measurements": [asdict(m) for m in row.measurements],
                }
            )
        return {
            "workload": self.workload,
            "machine": self.machine,
            "epochs_alone_s": strict,
            "epochs_and_evaluation_s": full,
            "rows": rows,
            "load_before": self.load,
        }


def compare(
    workload: Workload,
    machine: dict[str, Any],
    *,
    gpu: bool,
    only: Sequence[str],
    repeat: int,
    slow_repeat: int,
    echo: Callable[[str], None],
    keep: Callable[["Comparison"], None],
) -> Comparison:
    """Measure the contenders in turn, `repeat` times over.

    A contender that is missing or fails keeps its row, with the reason. `keep` is called after every
    measurement: an hour's work must not be lost to an interruption.
    """
    chosen = [c for c in contenders(gpu) if not only or c.key in only]
    rows = {c.key: Row(c.key, c.title) for c in chosen}
    comparison = Comparison(_workload(workload), machine, list(rows.values()))
    for contender in chosen:
        rows[contender.key].problem = contender.missing(workload)
    for repetition in range(repeat):
        for contender in _turns(chosen, repetition):
            row = rows[contender.key]
            if row.problem or (contender.key in SLOW and repetition >= slow_repeat):
                continue
            load = os.getloadavg()[0]
            comparison.load.append((contender.key, load))
            scratch = workload.workspace / f"{repetition + 1}-{contender.key}"
            scratch.mkdir(parents=True, exist_ok=True)
            echo(f"[{repetition + 1}/{repeat}] {contender.title} (load {load:.1f})")
            started = time.monotonic()
            try:
                measurement = contender.measure(workload, scratch)
            except BenchError as error:
                row.problem = str(error)
                echo(f"    failed: {error}")
                continue
            row.measurements.append(measurement)
            keep(comparison)
            echo(
                f"    warm round {measurement.warm_s:.2f} s, accuracy {measurement.accuracy:.3f} "
                f"({time.monotonic() - started:.0f} s)"
            )
    return comparison


def _turns(chosen: Sequence[Contender], repetition: int) -> Iterable[Contender]:
    """Back and forth, so that a slow drift of the machine falls on all alike."""
    return chosen if repetition % 2 == 0 else list(reversed(chosen))


def _workload(workload: Workload) -> dict[str, Any]:
    described = {key: value for key, value in asdict(workload).items() if not isinstance(value, Path)}
    return described | {"dataset": workload.folder.name}
