"""``bouquet compare``: runs side by side in one page, what differs first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from app.errors import UserError
from app.watch.report import page
from app.watch.report.course import short
from app.watch.report.drawing import Figure, Table, colour, rounds_axis, series, sheet
from app.watch.report.gather import Round, Run, gather
from app.watch.report.page import Page, Section, cell, number, only, size

SEED = "seed"
# These tell runs apart and change nothing in what they compute.
_NOT_COMPARED = (SEED, "submission", "resume")


@dataclass
class Group:
    """Runs that differ by their seed alone."""

    name: str
    runs: list[Run]

    def values(self, of: Callable[[Round], float | None]) -> dict[int, list[float]]:
        """By round, what is known of each run."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            for each in run.rounds:
                if (value := of(each)) is not None:
                    found.setdefault(each.number, []).append(value)
        return found


def make(folders: Sequence[Path], results: Path, out: Path | None) -> Path:
    """Write the page; its file.

    Raises:
        UserError: there are fewer than two runs, one cannot be read, or the page cannot be written.
    """
    folders = list(dict.fromkeys(folders))
    if len(folders) < 2:
        raise UserError(
            "bouquet compare needs two different runs or more; name them, such as two folders of results/"
        )
    runs = [gather(folder) for folder in folders]
    names = "-".join(run.name[-6:] for run in runs[:4])
    file = out or results / f"compare-{names}{f'-and-{len(runs) - 4}-more' if len(runs) > 4 else ''}.html"
    page.write(contents(runs, file.stem), file)
    return file


def contents(runs: Sequence[Run], files: str) -> Page:
    """The page of these runs."""
    labels = _labels(runs)
    groups = grouped(runs)
    repeated = [group for group in groups if len(group.runs) > 1]
    lead = f"{len(runs)} runs"
    if len(groups) == 1:
        lead += ", alike but for their seed"
    elif repeated:
        lead += f" in {len(groups)} groups of like settings"
    sections = [
        Section("different", "What differs", tables=[("Settings and data that differ", "different", differences(runs, labels))]),
        Section("reached", "What came of it", tables=[("At the end", "reached", reached(runs, labels))]),
        Section("course", "Round by round", figures=only([
            _lines(groups, "accuracy", "Accuracy by round", lambda each: each.accuracy),
            _lines(groups, "loss", "Loss by round", lambda each: each.loss),
            _lines(groups, "seconds", "Seconds a round", lambda each: each.seconds),
            _over_time(runs, labels),
            _bytes(runs, labels),
        ])),
    ]  # fmt: skip
    if repeated:
        title = "Mean and standard deviation over seeds"
        sections[1].tables.append((title, "over-seeds", over_seeds(repeated)))
    if not sections[0].tables[0][2].rows:
        sections[0] = Section(
            "different", "What differs", ["No setting and no data differ; the runs repeat one another."]
        )
    return Page(
        title="Runs side by side",
        heading="Runs side by side",
        lead=f"{lead}: {', '.join(labels)}.",
        files=files,
        sections=[section for section in sections if section],
        foot="Made from the events of the runs by `bouquet compare`. Nothing is loaded from elsewhere.",
    )


def _labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run that no other has."""
    names = [run.name for run in runs]
    return [str(run.folder) if names.count(run.name) > 1 else run.name for run in runs]


def _facts(run: Run) -> dict[str, Any]:
    """What a run was made from, as far as runs are compared by it."""
    started = run.started
    versions = started.get("versions")
    known = {
        f"version of {name}": value
        for name, value in (versions.items() if isinstance(versions, dict) else ())
    }
    data = {"data": started.get("dataset"), "checksum of the data": started.get("checksum")}
    settings = {key: value for key, value in run.settings.items() if key not in _NOT_COMPARED}
    return settings | data | {"mode": started.get("mode"), "clients": len(run.clients)} | known


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ by nothing but their seed stand together."""
    found: list[tuple[dict[str, Any], list[Run]]] = []
    for run in runs:
        facts = _facts(run)
        same = next((members for known, members in found if known == facts), None)
        if same is None:
            found.append((facts, [run]))
        else:
            same.append(run)
    return [
        Group(
            members[0].name if len(members) == 1 else f"{members[0].name} ({len(members)} seeds)",
            members,
        )
        for _, members in found
    ]


def differences(runs: Sequence[Run], labels: Sequence[str]) -> Table:
    """A row for each setting that is not the same in all runs."""
    facts = [_facts(run) | {SEED: run.settings.get(SEED)} for run in runs]
    keys = list(dict.fromkeys(key for each in facts for key in each))
    rows = [
        [key, *(cell(each.get(key)) for each in facts)]
        for key in keys
        if any(each.get(key) != facts[0].get(key) for each in facts)
    ]
    return Table(["setting", *labels], rows)


def reached(runs: Sequence[Run], labels: Sequence[str]) -> Table:
    """A row for each run: how it ended."""
    columns = [
        "run", "status", "rounds", "accuracy", "best accuracy", "loss", "seconds a round", "seconds in all",
        "down per client and round", "up per client and round", "epsilon", "failures", "went on",
    ]  # fmt: skip
    rows = []
    for run, label in zip(runs, labels, strict=True):
        told = [each.accuracy for each in run.rounds if each.accuracy is not None]
        seconds = [each.seconds for each in run.rounds]
        down, up = _traffic(run)
        rows.append([
            label, run.status, len(run.rounds), told[-1] if told else None, max(told, default=None),
            run.rounds[-1].loss if run.rounds else None, fmean(seconds) if seconds else None, sum(seconds),
            size(down), size(up), run.rounds[-1].epsilon if run.rounds else None,
            sum(fault.kind in ("reply_rejected", "reply_late") for fault in run.faults),
            sum(fault.kind == "run_resumed" for fault in run.faults),
        ])  # fmt: skip
    return Table(columns, rows, frozenset(range(2, 13)))


def over_seeds(groups: Sequence[Group]) -> Table:
    """Mean and standard deviation of what runs reached that differ by their seed."""
    rows = []
    for group in groups:
        last = [run.rounds[-1] for run in group.runs if run.rounds]
        rows.append([
            group.name, len(group.runs), _spread([each.accuracy for each in last]), _spread([each.loss for each in last]),
            _spread([fmean(each.seconds for each in run.rounds) for run in group.runs if run.rounds]),
        ])  # fmt: skip
    return Table(["runs", "seeds", "accuracy", "loss", "seconds a round"], rows, frozenset({1, 2, 3, 4}))


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return cell(None)
    return number(fmean(known)) + (f" ± {number(stdev(known))}" if len(known) > 1 else "")


def _traffic(run: Run) -> tuple[float, float]:
    """Bytes down and up per client and round: as the SuperLink counted them, else the replies'."""
    share = max(len(run.rounds), 1) * max(len(run.clients), 1)
    down, up = run.traffic or (sum(r.bytes_down for r in run.replies), sum(r.bytes_up for r in run.replies))
    return down / share, up / share


def _lines(
    groups: Sequence[Group], name: str, title: str, of: Callable[[Round], float | None]
) -> Figure | None:
    """A line for each group; where it has several runs, their mean in the span from least to most."""
    values = [group.values(of) for group in groups]
    if not any(values):
        return None
    with sheet(name) as made:
        axes = made.axes
        for i, (group, by_round) in enumerate(zip(groups, values, strict=True)):
            numbers = sorted(by_round)
            means = [fmean(by_round[n]) for n in numbers]
            axes.plot(numbers, means, **series(i), label=short(group.name, 32))
            if len(group.runs) > 1:
                low, high = [min(by_round[n]) for n in numbers], [max(by_round[n]) for n in numbers]
                axes.fill_between(numbers, low, high, color=series(i)["color"], alpha=0.2, linewidth=0)
        rounds_axis(axes, sorted({n for by_round in values for n in by_round}))
        if name == "seconds":
            axes.set_ylim(bottom=0)
        axes.set_ylabel(name)
        made.canvas.legend(loc="outside upper left", ncols=1, fontsize=9)
    rows = [
        [group.name, n, fmean(told), min(told), max(told), len(told)]
        for group, by_round in zip(groups, values, strict=True)
        for n, told in sorted(by_round.items())
    ]
    table = Table(["run", "round", "mean", "least", "most", "runs"], rows, frozenset(range(1, 6)))
    ends = [f"{group.name} {fmean(v[max(v)]):.4g}" for group, v in zip(groups, values, strict=True) if v]
    return made.figure(name, title, f"{title}; in the last round: {', '.join(ends)}.", table)


def _over_time(runs: Sequence[Run], labels: Sequence[str]) -> Figure | None:
    """Accuracy over the seconds that rounds took: which run gets there first."""
    if not any(each.accuracy is not None for run in runs for each in run.rounds):
        return None
    rows = []
    with sheet("accuracy-by-time") as made:
        for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
            seconds = np.cumsum([each.seconds for each in run.rounds])
            reached = [np.nan if each.accuracy is None else each.accuracy for each in run.rounds]
            made.axes.plot(seconds, reached, **series(i), label=short(label, 32))
            rows += [
                [label, each.number, float(s), each.accuracy]
                for each, s in zip(run.rounds, seconds, strict=True)
            ]
        made.axes.set_xlabel("seconds in rounds")
        made.axes.set_ylabel("accuracy")
        made.axes.grid(axis="y")
        made.canvas.legend(loc="outside upper left", ncols=1, fontsize=9)
    table = Table(["run", "round", "seconds", "accuracy"], rows, frozenset({1, 2, 3}))
    said = "Accuracy on the server's test split over the time that the rounds took."
    return made.figure("accuracy-by-time", "Accuracy by time", said, table)


def _bytes(runs: Sequence[Run], labels: Sequence[str]) -> Figure | None:
    """Bytes to and from a client in a round."""
    found = [_traffic(run) for run in runs]
    if not any(down or up for down, up in found):
        return None
    with sheet("bytes", height=1.1 + 0.45 * len(runs)) as made:
        axes = made.axes
        rows = np.arange(len(runs))
        axes.barh(rows - 0.19, [down / 1e6 for down, _ in found], 0.34, color=colour("c1"), label="down")
        axes.barh(
            rows + 0.19,
            [up / 1e6 for _, up in found],
            0.34,
            color=colour("c2"),
            hatch="//",
            edgecolor=colour("card"),
            linewidth=0,
            label="up",
        )
        axes.set_yticks(rows, [short(label, 20) for label in labels])
        axes.set_ylim(len(runs) - 0.4, -0.6)
        axes.set_xlabel("MB per client and round")
        axes.grid(axis="x")
        made.canvas.legend(loc="outside upper left", ncols=2, fontsize=9)
    table = Table(
        ["run", "bytes down", "bytes up"],
        [[label, *each] for label, each in zip(labels, found, strict=True)],
        frozenset({1, 2}),
    )
    said = "; ".join(
        f"{label}: {size(down)} down, {size(up)} up" for label, (down, up) in zip(labels, found, strict=True)
    )
    return made.figure("bytes", "Bytes per client and round", f"{said}.", table)
