"""Figures of what was learned: accuracy and loss, seconds, how far and how alike updates are, privacy."""

from collections.abc import Iterable

import numpy as np

from app.watch.report.course import round_numbers, short
from app.watch.report.drawing import Figure, Table, cell_text, colour, heat, rounds_axis, series, sheet
from app.watch.report.gather import EVALUATE, TRAIN, Likeness, Run

MOST_LINES = 8  # clients that get a line of their own


def learned(run: Run, what: str) -> Figure | None:
    """Accuracy or loss by round: the server's, the clients' mean and their spread."""
    numbers = [each.number for each in run.rounds]
    server = [getattr(each, what) for each in run.rounds]
    of_clients = {number: _values(run, number, EVALUATE, what) for number in numbers}
    if not any(value is not None for value in server) and not any(of_clients.values()):
        return None
    shown = [number for number in numbers if of_clients[number]]
    low, mean, high = ([function(of_clients[number]) for number in shown] for function in (min, _mean, max))
    with sheet(what) as made:
        axes = made.axes
        if shown:
            axes.fill_between(
                shown, low, high, color=colour("c2"), alpha=0.22, linewidth=0, label="clients, span"
            )
            axes.plot(shown, mean, **series(1), label="clients, mean")
        axes.plot(
            numbers, [np.nan if value is None else value for value in server], **series(0), label="server"
        )
        rounds_axis(axes, numbers)
        axes.set_ylabel(what)
        made.canvas.legend(loc="outside upper left", ncols=3, fontsize=9)
    by = {number: index for index, number in enumerate(shown)}
    rows = [
        [number, value, *((low[by[number]], mean[by[number]], high[by[number]], len(of_clients[number])) if number in by else ("", "", "", 0))]
        for number, value in zip(numbers, server, strict=True)
    ]  # fmt: skip
    table = Table(
        ["round", "server", "clients, least", "clients, mean", "clients, most", "clients"],
        rows,
        frozenset(range(6)),
    )
    told = [value for value in server if value is not None]
    said = f"{what.capitalize()} by round"
    said += f": on the server's test split from {told[0]:.4f} to {told[-1]:.4f}" if told else ""
    said += f"; clients in the last round from {low[-1]:.4f} to {high[-1]:.4f}" if shown else ""
    return made.figure(what, f"{what.capitalize()} by round", said + ".", table)


def _values(run: Run, number: int, phase: str, what: str) -> list[float]:
    found = [getattr(reply, what) for reply in run.of_phase(number, phase)]
    return [value for value in found if value is not None]


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def seconds(run: Run) -> Figure | None:
    """Seconds of each client's training by round, and of the round."""
    numbers = round_numbers(run)
    by_client = {
        client: {r.round: r.seconds for r in run.replies if r.client == client and r.phase == TRAIN}
        for client in run.clients
    }
    if not run.replies or not any(by_client.values()):
        return None
    return _by_client(
        run, "seconds", "Seconds of training, by round", "seconds", numbers, by_client,
        "from sending to each client's reply",
    )  # fmt: skip


def update_lengths(run: Run) -> Figure | None:
    """How far each client's update goes, by round."""
    by_client = {
        client: {
            r.round: r.update_length
            for r in run.replies
            if r.client == client and r.update_length is not None
        }
        for client in run.clients
    }
    if not any(by_client.values()):
        return None
    return _by_client(
        run, "update-lengths", "Length of the updates, by round", "L2 norm", round_numbers(run), by_client,
        "the L2 norm of what training changed in the model",
    )  # fmt: skip


def _by_client(
    run: Run, name: str, title: str, label: str, numbers: list[int], by_client: dict[str, dict[int, float]], what: str
) -> Figure:  # fmt: skip
    """A line for each client; for many, the middle, the span, and the one that is highest most often."""
    values = {n: [of[n] for of in by_client.values() if n in of] for n in numbers}
    shown = [n for n in numbers if values[n]]
    with sheet(name) as made:
        axes = made.axes
        if len(by_client) <= MOST_LINES:
            for number, (client, of) in enumerate(by_client.items()):
                axes.plot(list(of), list(of.values()), **series(number), label=short(client, 16))
        else:
            low, high = [min(values[n]) for n in shown], [max(values[n]) for n in shown]
            axes.fill_between(
                shown, low, high, color=colour("c1"), alpha=0.2, linewidth=0, label="least to most"
            )
            axes.plot(shown, [float(np.median(values[n])) for n in shown], **series(0), label="median")
            top = max(
                by_client, key=lambda client: sum(by_client[client].values()) / max(len(by_client[client]), 1)
            )
            axes.plot(
                list(by_client[top]),
                list(by_client[top].values()),
                **series(1),
                label=f"{short(top, 16)}, most",
            )
        rounds_axis(axes, shown)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
        made.canvas.legend(loc="outside upper left", ncols=_columns(by_client), fontsize=9)
    table = Table(
        ["client", *(f"round {n}" for n in numbers)],
        [[client, *(of.get(n, "") for n in numbers)] for client, of in by_client.items()],
        frozenset(range(1, len(numbers) + 1)),
    )
    every = [value for n in shown for value in values[n]]
    said = f"{title}: {what}; from {min(every):.3g} to {max(every):.3g}, median {np.median(every):.3g}."
    return made.figure(name, title, said, table)


def _columns(names: Iterable[str]) -> int:
    """How many names a line of the legend holds."""
    return 3 if max(map(len, names), default=0) <= 12 else 2


def likeness(found: Likeness) -> Figure | None:
    """Cosines between the updates of one round."""
    count = len(found.pairs)
    if count < 2:
        return None
    values = np.full((count, count), np.nan)
    for i, row in enumerate(found.pairs):
        values[i, i] = 1
        for j, value in enumerate(row):
            if value is not None:
                values[i, j] = values[j, i] = value
    side = max(4.2, 1.8 + 0.3 * count)
    with sheet("similarity", side, side * 0.82) as made:
        axes = made.axes
        shown = heat(axes, values, lowest=-1, highest=1)
        if count <= 12:
            cell_text(axes, shown, values, "{:.2f}", 8 if count <= 8 else 6.5)
        names = [short(client, 16) for client in found.clients]
        axes.set_yticks(range(count), names)
        axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
        made.canvas.colorbar(shown, ax=axes, label="cosine", fraction=0.05)
    table = Table(
        ["client", *found.clients],
        [
            [client, *("" if value != value else round(float(value), 4) for value in values[i])]
            for i, client in enumerate(found.clients)
        ],
        frozenset(range(1, count + 1)),
    )
    off = values[~np.eye(count, dtype=bool)]
    told = off[~np.isnan(off)]
    span = f"from {told.min():.2f} to {told.max():.2f}" if told.size else "unknown"
    said = f"Cosines between the clients' updates of round {found.round}: {span}. 1: the same direction; 0: nothing in common; -1: opposite."
    return made.figure("similarity", f"Similarity of the updates, round {found.round}", said, table)


def epsilon(run: Run) -> Figure | None:
    """The privacy budget that is spent, by round."""
    told = [(each.number, each.epsilon) for each in run.rounds if each.epsilon is not None]
    if not told:
        return None
    numbers, spent = [n for n, _ in told], [e for _, e in told]
    with sheet("privacy") as made:
        made.axes.plot(numbers, spent, **series(3), label="epsilon")
        rounds_axis(made.axes, numbers)
        made.axes.set_ylim(bottom=0)
        made.axes.set_ylabel("epsilon spent")
    table = Table(["round", "epsilon"], told, frozenset({0, 1}))
    return made.figure(
        "privacy", "Privacy spent, by round", f"Epsilon grows from {spent[0]:.3g} to {spent[-1]:.3g}.", table
    )
