"""The faults as a table, and as JSON."""

import json
from pathlib import Path

from bench.faults.case import FAULTY, Fault
from bench.faults.measure import Column, Report
from bench.faults.verdict import Outcome, rounds_again, rounds_begun, rounds_missed, seconds_lost
from bench.machine import one_line


def rows(report: Report) -> list[list[str]]:
    """Heading and rows: one column for each contender."""
    columns = report.columns
    return [
        ["", *(column.title for column in columns)],
        ["undisturbed runs, s", *(undisturbed(column) for column in columns)],
        *(
            [f"a killed client is noticed after, s ({fault.title})", *(noticed(c, fault, report.bound_s) for c in columns)]
            for fault in report.faults if fault.kills_client
        ),
        *([fault.title, *(lost(c, fault, report) for c in columns)] for fault in report.faults),
        ["the end result names who missed rounds", *(names(column) for column in columns)],
        ["settings touched", *(", ".join(column.touched) or "none" for column in columns)],
    ]  # fmt: skip


def undisturbed(column: Column) -> str:
    """Seconds of the runs that were not disturbed: how much their difference is says what a second is worth."""
    if column.problem:
        return f"not measured: {column.problem}"
    return " and ".join(f"{run.seconds:.0f}" for run in column.undisturbed)


def noticed(column: Column, fault: Fault, bound_s: float) -> str:
    """Seconds until a killed client was noticed."""
    outcome = column.outcome(fault)
    if outcome is None or outcome.problem:
        return _none(outcome)
    return f"> {bound_s:.0f}" if outcome.noticed_s is None else f"{outcome.noticed_s:.0f}"


def lost(column: Column, fault: Fault, report: Report) -> str:
    """Rounds and seconds that a fault has cost."""
    outcome = column.outcome(fault)
    if outcome is None or outcome.problem:
        return _none(outcome)
    if not outcome.done:
        how = f"run ended as {outcome.word}" if outcome.ended else f"never: > {report.bound_s:.0f} s"
        return f"{how}; {_rounds(rounds_begun(outcome.marks))} lost"
    missed = rounds_missed(outcome.marks, FAULTY)
    seconds = max(0.0, seconds_lost(outcome.marks, FAULTY, report.work.fault_round))
    said = f"{_rounds(rounds_again(outcome.marks, FAULTY))}, {seconds:.0f} s"
    return f"{said}; the client missed {missed}" if missed else said


def names(column: Column) -> str:
    """Whether the end results tell who missed rounds, of the runs that ended with a client that had."""
    told = [outcome.told for outcome in column.outcomes if outcome.told is not None]
    if not told:
        return "no such run ended" if column.outcomes else ""
    return "yes" if all(told) else "no" if not any(told) else f"{sum(told)} of {len(told)}"


def _rounds(number: int) -> str:
    return f"{number} round" if number == 1 else f"{number} rounds"


def _none(outcome: Outcome | None) -> str:
    return f"not measured: {outcome.problem}" if outcome and outcome.problem else ""


def markdown(report: Report) -> str:
    """The table with what it means."""
    head, *body = rows(report)
    work = report.work
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in body]
    about = (
        f"{report.date}, {work.clients} clients, {work.rounds} rounds with {work.work_s:.0f} s of sleep in each training, the fault "
        f"in round {work.fault_round}; load of the machine {min(report.load):.0f} to {max(report.load):.0f}"
    )
    return "\n".join([*lines, "", f"{about}; {one_line(report.machine)}", ""])


def write(report: Report, folder: Path) -> None:
    """Write faults.json and faults.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.json").write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    (folder / "faults.md").write_text(markdown(report), encoding="utf-8")
