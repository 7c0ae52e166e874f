"""Figures of the model and the data: side by side, per class, who is taken for whom, how labels are distributed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.watch.report.baselines import Baselines
from app.watch.report.course import short
from app.watch.report.drawing import Figure, Table, cell_text, colour, heat, sheet
from app.watch.report.examined import Examined
from app.watch.report.gather import Run

MOST_NAMED = 40  # classes, or partitions, that a figure names


def side_by_side(run: Run, found: Baselines) -> Figure | None:
    """Local only, federated, pooled: accuracy on the same test split."""
    reached = run.rounds[-1].accuracy if run.rounds else None
    if reached is None or not found.alone:
        return None
    alone = [accuracy for _, accuracy in found.alone]
    names = ["one alone", "federated", "pooled"]
    values = [float(np.mean(alone)), reached, found.pooled[1]]
    with sheet("side-by-side", height=2.3) as made:
        axes = made.axes
        for row, (value, tone, hatch) in enumerate(
            zip(values, ("c2", "c1", "c3"), ("//", "", ".."), strict=True)
        ):
            axes.barh(
                row, value, 0.62, color=colour(tone), hatch=hatch, edgecolor=colour("card"), linewidth=0
            )
            axes.text(value + 0.01, row, f"{value:.3f}", va="center", fontsize=9)
        axes.plot(
            [min(alone), max(alone)],
            [0.42, 0.42],
            color=colour("ink"),
            marker="|",
            markersize=7,
            linewidth=1.2,
        )
        axes.set_yticks(range(3), names)
        axes.set_ylim(2.6, -0.6)
        axes.set_xlim(0, min(1.12, max([*values, *alone]) * 1.25 + 0.02))
        axes.set_xlabel("accuracy on the test split")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
    rows = [[f"partition {i} alone", loss, accuracy] for i, (loss, accuracy) in enumerate(found.alone)]
    rows += [
        ["one alone, mean", "", values[0]],
        ["federated", run.rounds[-1].loss, values[1]],
        ["pooled: all data in one place", *found.pooled],
    ]
    said = (
        f"Accuracy on the test split after {found.epochs} epochs: one partition alone {values[0]:.3f} on average "
        f"({min(alone):.3f} to {max(alone):.3f}), the federation {values[1]:.3f}, all data in one place {values[2]:.3f}."
    )
    table = Table(["trained on", "loss", "accuracy"], rows, frozenset({1, 2}))
    return made.figure("side-by-side", "Alone, federated, pooled", said, table)


def per_class(found: Examined) -> Figure | None:
    """Accuracy of each class, with its number of pictures."""
    told = found.per_class
    if not told:
        return None
    shown = told if len(told) <= MOST_NAMED else sorted(told, key=lambda each: _worst(each[2]))[:MOST_NAMED]
    with sheet("per-class", height=0.9 + 0.25 * len(shown)) as made:
        axes = made.axes
        values = [value or 0 for _, _, value in shown]
        axes.barh(range(len(shown)), values, 0.66, color=colour("c1"))
        for row, (_, count, value) in enumerate(shown):
            said = "no pictures" if value is None else f"{value:.2f} of {count}"
            axes.text((value or 0) + 0.015, row, said, va="center", fontsize=9)
        axes.set_yticks(range(len(shown)), [short(name, 16) for name, _, _ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 1.3)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("share of its pictures that the model knows")
        axes.grid(axis="x")
    known = [(value, name) for name, _, value in told if value is not None]
    text = f"Accuracy of {len(told)} classes"
    if known:
        text += f": from {min(known)[0]:.2f} ({min(known)[1]}) to {max(known)[0]:.2f} ({max(known)[1]})"
    if len(shown) < len(told):
        text += f"; the {len(shown)} worst are drawn"
    table = Table(["class", "pictures", "accuracy"], told, frozenset({1, 2}))
    return made.figure("per-class", "Accuracy per class", text + ".", table)


def _worst(value: float | None) -> float:
    return 2.0 if value is None else value


def confusion(found: Examined) -> Figure | None:
    """Who is taken for whom."""
    counts = found.confusion
    if counts is None:
        return None
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    side = min(9.0, max(4.2, 1.6 + 0.32 * len(counts)))
    with sheet("confusion", side, side * 0.86) as made:
        axes = made.axes
        shown = heat(axes, shares, lowest=0, highest=1)
        if len(counts) <= 12:
            cell_text(axes, shown, shares, "{:.0f}", 7.5, counts)
        _named(axes, found.classes, found.classes)
        axes.set_xlabel("taken for")
        axes.set_ylabel("is")
        made.canvas.colorbar(shown, ax=axes, label="share of the class", fraction=0.05)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    worst = np.unravel_index(wrong.argmax(), wrong.shape)
    said = f"{int(np.trace(counts))} of {int(counts.sum())} pictures are right"
    if wrong.any():
        said += f"; most often {found.classes[worst[0]]} is taken for {found.classes[worst[1]]} ({int(wrong.max())} times)"
    table = Table(
        ["is \\ taken for", *found.classes],
        [[name, *map(int, counts[i])] for i, name in enumerate(found.classes)],
        frozenset(range(1, len(counts) + 1)),
    )
    return made.figure("confusion", "What is taken for what", said + ".", table)


def labels(found: Examined) -> Figure | None:
    """How the labels are distributed over the partitions."""
    counts = found.labels
    if counts is None:
        return None
    rows, columns = counts.shape
    width, height = max(4.2, min(9.0, 1.9 + 0.36 * columns)), min(12.0, 1.5 + 0.26 * min(rows, 60))
    with sheet("labels", width, height) as made:
        axes = made.axes
        shown = heat(axes, counts.astype(float), lowest=0, highest=max(1, int(counts.max())))
        if columns <= 12 and rows <= 40:
            cell_text(axes, shown, counts.astype(float), "{:.0f}", 7.5)
        _named(axes, [f"partition {i}" for i in range(rows)], found.classes)
        made.canvas.colorbar(shown, ax=axes, label="examples", fraction=0.05)
    totals = counts.sum(1)
    missing = int((counts == 0).sum())
    said = f"Examples by partition and class: {totals.min()} to {totals.max()} in a partition; {missing} of {counts.size} places are empty."
    table = Table(
        ["partition", *found.classes, "all"],
        [[f"partition {i}", *map(int, row), int(row.sum())] for i, row in enumerate(counts)],
        frozenset(range(1, columns + 2)),
    )
    return made.figure("labels", "Label distribution", said, table)


def _named(axes: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Name rows and columns, or only some where there are many."""
    for names, put in ((rows, axes.set_yticks), (columns, axes.set_xticks)):
        step = max(1, -(-len(names) // MOST_NAMED))
        shown = [short(name, 16) for name in names[::step]]
        if put == axes.set_xticks:
            put(range(0, len(names), step), shown, rotation=45, ha="right", rotation_mode="anchor")
        else:
            put(range(0, len(names), step), shown)
