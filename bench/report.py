"""The comparison as a table, as JSON and as a picture."""

import json
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.compare import Comparison, Row
from bench.machine import one_line

HEADER = (
    "what",
    "round, s (range)",
    "÷ epochs",
    "÷ epochs + evaluation",
    "first round, s",
    "submission to end, s",
    "whole command, s",
    "accuracy",
)
GOALS = (
    # (what, key of the numerator, its quantity, key of the denominator, its quantity, at most)
    ("plain processes ÷ epochs alone", "bouquet", "warm", "arithmetic", "epochs", 1.3),
    ("plain processes ÷ epochs and evaluation", "bouquet", "warm", "arithmetic", "warm", 1.3),
    ("containers ÷ epochs alone", "compose", "warm", "arithmetic", "epochs", 1.4),
    ("containers ÷ epochs and evaluation", "compose", "warm", "arithmetic", "warm", 1.4),
    # Bouquet's own loop is faster than a plain one, so these are stricter.
    ("plain processes ÷ own loop, epochs alone", "bouquet", "warm", "arithmetic-bouquet", "epochs", 1.3),
    (
        "plain processes ÷ own loop, epochs and evaluation",
        "bouquet",
        "warm",
        "arithmetic-bouquet",
        "warm",
        1.3,
    ),
    ("containers ÷ own loop, epochs alone", "compose", "warm", "arithmetic-bouquet", "epochs", 1.4),
    ("containers ÷ own loop, epochs and evaluation", "compose", "warm", "arithmetic-bouquet", "warm", 1.4),
    ("plain processes ÷ FLARE tuned, per round", "bouquet", "warm", "flare-tuned", "warm", 1.0),
    ("plain processes ÷ FLARE tuned, submission to end", "bouquet", "run_s", "flare-tuned", "run_s", 0.6),
    ("plain processes ÷ FLARE tuned, whole command", "bouquet", "command_s", "flare-tuned", "command_s", 0.6),
    ("plain processes ÷ stock Flower, one thread", "bouquet", "warm", "stock-1t", "warm", 1 / 15),
    ("plain processes ÷ Ray simulation as it comes", "bouquet", "warm", "ray", "warm", 1 / 4),
    ("plain processes ÷ Ray simulation tuned", "bouquet", "warm", "ray-tuned", "warm", 1 / 4),
)


def cells(comparison: Comparison, row: Row) -> tuple[str, ...]:
    """One row of the table."""
    if not row.measurements:
        return (row.title, f"not measured: {row.problem}", *[""] * (len(HEADER) - 2))
    warm = statistics.median(row.warm)
    strict, full = comparison.baseline(False), comparison.baseline(True)
    spread = f"{warm:.2f} ({min(row.warm):.2f} to {max(row.warm):.2f})"
    if row.epochs:
        spread += f"; epochs alone {statistics.median(row.epochs):.2f}"
    first, run_s, command_s, accuracy = (
        row.median(name) for name in ("first", "run_s", "command_s", "accuracy")
    )
    return (
        row.title,
        spread,
        f"{warm / strict:.2f}" if strict else "",
        f"{warm / full:.2f}" if full else "",
        f"{first:.1f}" if first is not None else "",
        f"{run_s:.0f}" if run_s is not None else "",
        f"{command_s:.0f}" if command_s is not None else "",
        f"{accuracy:.3f}" if accuracy is not None else "",
    )


def verdicts(comparison: Comparison) -> list[tuple[str, float, float]]:
    """(what, measured ratio, goal) for every goal that the measured rows allow."""
    found = []
    for what, top, quantity, bottom, measure, goal in GOALS:
        numerator = _quantity(comparison, top, quantity)
        denominator = _quantity(comparison, bottom, measure)
        if numerator and denominator:
            found.append((what, numerator / denominator, goal))
    return found


def _quantity(comparison: Comparison, key: str, name: str) -> float | None:
    row = comparison.row(key)
    if row is None:
        return None
    if name in ("warm", "epochs"):
        seconds: list[float] = getattr(row, name)
        return statistics.median(seconds) if seconds else None
    return row.median(name)


def show(comparison: Comparison, console: Console) -> None:
    """Print the table, the ratios against their goals, and what they mean."""
    work = comparison.workload
    title = f"{work['model']}, {work['clients']} clients, {work['rounds']} rounds, {work['dataset']}"
    table = Table(*HEADER, title=title, caption=one_line(comparison.machine))
    for row in comparison.rows:
        table.add_row(*cells(comparison, row))
    console.print(table)
    console.print(
        "Rounds after the first: median and range over all repetitions. Denominators of the table: the plain "
        "PyTorch loop, its epochs alone and with the same evaluations as in a round. Bouquet's submission "
        "to end includes starting and ending its processes; the others' does not."
    )
    for what, ratio, goal in verdicts(comparison):
        mark = "[green]met[/]" if ratio <= goal else "[red]missed[/]"
        console.print(f"  {what}: {ratio:.3f} (goal: at most {goal:.3f}) {mark}")


def markdown(comparison: Comparison) -> str:
    """The table for the README."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(cells(comparison, row)) + " |" for row in comparison.rows]
    return "\n".join([*lines, "", one_line(comparison.machine), ""])


def write(comparison: Comparison, folder: Path) -> None:
    """Write bench.json, bench.md and bench.png."""
    write_json(comparison, folder)
    (folder / "bench.md").write_text(markdown(comparison), encoding="utf-8")
    draw(comparison, folder / "bench.png")


def write_json(comparison: Comparison, folder: Path) -> None:
    """Write bench.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(comparison.as_json(), indent=2) + "\n", encoding="utf-8")


def draw(comparison: Comparison, file: Path) -> None:
    """Seconds per round of every row, on a logarithmic axis, with every round as a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in reversed(comparison.rows) if row.measurements]
    if not rows:
        return
    figure, axes = pyplot.subplots(figsize=(9, 0.6 * len(rows) + 1.6))
    for place, row in enumerate(rows):
        warm = statistics.median(row.warm)
        colour = "#d6336c" if row.key in ("bouquet", "compose") else "#adb5bd"
        axes.barh(place, warm, color=colour)
        axes.plot(row.warm, [place] * len(row.warm), "k.", markersize=3, alpha=0.5)
        axes.annotate(f" {warm:.1f} s", (max(row.warm), place), va="center")
    strict = comparison.baseline(False)
    if strict:
        axes.axvline(strict, color="black", linestyle=":", linewidth=1, label="epochs alone")
        axes.legend(loc="lower right")
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_xscale("log")
    axes.set_xlabel("seconds per round (rounds after the first; bar: median)")
    axes.margins(x=0.15)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
