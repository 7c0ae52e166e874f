"""All contenders with all faults in one go.

Most of it is waiting, so the products run beside each other. That takes less time, and the machine's load is the same for each.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.faults.bouquet import Bouquet
from bench.faults.case import FAULTY, UNDISTURBED, Fault, run
from bench.faults.contract import STOP, Contender, Work
from bench.faults.flare import Flare
from bench.faults.stock_flower import StockFlower
from bench.faults.verdict import (
    Outcome,
    rounds_again,
    rounds_begun,
    rounds_missed,
    run_longer_s,
    seconds_lost,
)
from bench.machine import describe


def contenders() -> list[Contender]:
    """The columns of the table, in their order."""
    return [Bouquet(), StockFlower(), Flare(touched=True), Flare(touched=False)]


@dataclass(slots=True)
class Column:
    """One contender's runs."""

    key: str
    title: str
    touched: tuple[str, ...]
    problem: str = ""
    undisturbed: list[Outcome] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def outcome(self, fault: Fault) -> Outcome | None:
        """The run with this fault, if there was one."""
        return next((each for each in self.outcomes if each.fault == fault.key), None)


@dataclass(slots=True)
class Report:
    """What one call of the benchmark found."""

    work: Work
    bound_s: float
    date: str
    machine: dict[str, Any]
    faults: Sequence[Fault]
    columns: list[Column]
    load: list[float] = field(default_factory=list)
    """One-minute load average at the start of each run."""

    def as_json(self) -> dict[str, Any]:
        """Everything, with what the table says of each run."""
        columns = []
        for column in self.columns:
            runs = [
                (each, _said(each, column, self.work)) for each in (*column.undisturbed, *column.outcomes)
            ]
            columns.append(
                {
                    "key": column.key, "title": column.title, "touched": column.touched, "problem": column.problem,
                    "runs": [asdict(outcome) | said for outcome, said in runs],
                }
            )  # fmt: skip
        work = asdict(self.work) | {"store": self.work.store.name}
        return {
            "date": self.date, "work": work, "bound_s": self.bound_s, "machine": self.machine, "load": self.load,
            "columns": columns,
        }  # fmt: skip


def _said(outcome: Outcome, column: Column, work: Work) -> dict[str, Any]:
    whole = outcome.done and column.undisturbed
    return {
        "rounds_begun_again": rounds_again(outcome.marks, FAULTY),
        "rounds_begun": rounds_begun(outcome.marks),
        "rounds_missed": rounds_missed(outcome.marks, FAULTY),
        "seconds_lost": seconds_lost(outcome.marks, FAULTY, work.fault_round) if outcome.done else None,
        "run_longer_s": run_longer_s(outcome, column.undisturbed) if whole else None,
    }


def measure(
    work: Work,
    scratch: Path,
    *,
    only: Sequence[str],
    faults: Sequence[Fault],
    bound_s: float,
    echo: Callable[[str], None],
    keep: Callable[[Report], None],
) -> Report:
    """Run the products beside each other, each one's runs in turn: undisturbed, every fault, undisturbed again.

    `keep` is called after every run.
    """
    chosen = [each for each in contenders() if not only or each.key in only]
    columns = [Column(each.key, each.title, each.touched, each.missing()) for each in chosen]
    report = Report(work, bound_s, time.strftime("%Y-%m-%d"), describe(), faults, columns)
    lock = threading.Lock()

    def measure_one(contender: Contender, column: Column) -> None:
        for number, fault in enumerate((UNDISTURBED, *faults, UNDISTURBED)):
            if column.problem or STOP.is_set():
                return
            with lock:
                report.load.append(os.getloadavg()[0])
            folder = f"{contender.key}-{number}-{fault.key}"
            outcome = run(contender, fault, work, scratch / folder, bound_s)
            if outcome.problem and not STOP.is_set():  # the machine was too busy to come as far as the fault
                echo(f"{contender.title}, {fault.title}: once more after: {outcome.problem}")
                outcome = run(contender, fault, work, scratch / f"{folder}-again", bound_s)
            with lock:
                if fault is UNDISTURBED and not outcome.done:
                    if not column.undisturbed:
                        column.problem = outcome.problem or f"the undisturbed run failed: {outcome.word}"
                else:
                    (column.undisturbed if fault is UNDISTURBED else column.outcomes).append(outcome)
                how = outcome.problem or outcome.word or "never"
                echo(f"{contender.title}, {fault.title}: {how} after {outcome.seconds:.0f} s")
                keep(report)

    def lane(product: type[Contender]) -> None:
        for contender, column in zip(chosen, columns, strict=True):
            if type(contender) is product:
                measure_one(contender, column)

    products = list(dict.fromkeys(type(contender) for contender in chosen))
    with ThreadPoolExecutor(len(products) or 1) as pool:
        try:
            for done in [pool.submit(lane, product) for product in products]:
                done.result()
        except BaseException:
            STOP.set()
            raise
    return report
