"""The live view as it is drawn on a terminal: as much as fits, what is in trouble first."""

import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from app.watch.live.state import IN_TROUBLE, WORKING, ClientView, Doing, RunView

QUIET_S = 15.0  # without an event, which is then said
WIDE = 110  # columns from which reasons are shown
_FRAME = 9  # lines around the clients: the border, the run, the table's head, the line below
_STYLES = {
    Doing.WAITING: "dim",
    Doing.TRAINING: "cyan",
    Doing.EVALUATING: "blue",
    Doing.DONE: "green",
    Doing.LATE: "yellow",
    Doing.LEFT_OUT: "magenta",
    Doing.LOST: "bold red",
}
_BARS = "▁▂▃▄▅▆▇█"


def picture(run: RunView, now: datetime, width: int, height: int) -> Panel:
    """The run in at most ``height`` lines of ``width`` columns."""
    clients = _clients(run, now, width, max(1, height - _FRAME))
    return Panel(
        Group(_where(run, now, width), _doing(run, now), _model(run, width), _transfer(run), clients),
        title=Text(" ".join(part for part in ("run", run.name, run.mode) if part)),
        title_align="left",
        width=width,
    )


def _where(run: RunView, now: datetime, width: int) -> Table:
    """Rounds done, as words and as a bar, and time."""
    left = run.left_s(now)
    gone = _clock((now - run.begun).total_seconds()) if run.begun else "0:00"
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    row.add_row(
        Text(f"round {run.done} of {run.rounds or '?'}", style="bold"),
        ProgressBar(total=max(run.rounds, 1), completed=run.done, width=max(10, width - 52)),
        Text(f"{gone} gone" + (f", about {_clock(left)} left" if left is not None else "")),
    )
    return row


def _doing(run: RunView, now: datetime) -> Text:
    if run.ended:
        said = run.status + (f": {run.reason}" if run.reason else "")
        return Text(f"{said}; {run.participation}" if run.participation else said, overflow="ellipsis")
    if run.waits_for:
        return Text(f"waiting for clients: {run.waits_for}", style="yellow", overflow="ellipsis")
    if run.phase:
        since = max((client.since for client in run.clients.values() if client.since), default=None)
        seconds = f", {(now - since).total_seconds():.0f} s" if since else ""
        line = f"round {run.done + 1}: {run.phase}, {run.replied} of {len(run.asked)} replied{seconds}"
    else:
        line = "the server averages and evaluates" if run.clients else "starting"
    quiet = (now - run.latest).total_seconds() if run.latest else 0.0
    if quiet > QUIET_S:
        line += f"; nothing new for {_clock(quiet)}"
    return Text(line, overflow="ellipsis", no_wrap=True)


def _model(run: RunView, width: int) -> Text:
    known = [value for value in run.accuracies if value is not None]
    accuracy = "-" if not known else f"{known[-1]:.4f}"
    best = f" (best {run.best[1]:.4f} in round {run.best[0]})" if run.best else ""
    loss = "-" if run.loss is None else f"{run.loss:.4f}"
    line = f"accuracy {accuracy}{best}  loss {loss}  "
    return Text(line + sparkline(known, max(0, width - len(line) - 6)), no_wrap=True, overflow="ellipsis")


def _transfer(run: RunView) -> Text:
    return Text(f"transfer {_size(run.down)} to the clients, {_size(run.up)} from them")


def _clients(run: RunView, now: datetime, width: int, height: int) -> Table:
    """The clients that fit; those in trouble first, then those that work."""
    table = Table(box=None, expand=True, padding=(0, 1), pad_edge=False)
    for name in ("client", "does"):
        table.add_column(name, no_wrap=True)
    for name in ("examples", "loss", "accuracy", "seconds", "failures"):
        table.add_column(name, justify="right", no_wrap=True)
    if width >= WIDE:
        table.add_column("why", no_wrap=True, ratio=1)
    ordered = sorted(run.clients.items(), key=lambda item: (_rank(item[1].doing), natural(item[0])))
    if len(ordered) <= height:  # then each keeps its line
        ordered = sorted(run.clients.items(), key=lambda item: natural(item[0]))
    shown = ordered if len(ordered) <= height else ordered[: height - 1]
    for name, client in shown:
        table.add_row(*_cells(name, client, now, width))
    if rest := ordered[len(shown) :]:
        counts = Counter(client.doing for _, client in rest)
        told = ", ".join(f"{count} {doing}" for doing, count in counts.most_common())
        table.add_row(Text(f"and {len(rest)} more", style="dim"), Text(told, style="dim"))
    return table


def _cells(name: str, client: ClientView, now: datetime, width: int) -> Iterable[Text]:
    working = client.doing in WORKING and client.since is not None
    gone = (now - client.since).total_seconds() if working and client.since else client.seconds
    yield Text(name if len(name) <= 24 else name[:23] + "…")
    yield Text(client.doing, style=_STYLES[client.doing])
    yield Text("-" if client.examples is None else str(client.examples))
    yield _number(client.loss, 4)
    yield _number(client.accuracy, 4)
    yield _number(gone, 1)
    yield Text(str(client.failures), style="yellow" if client.failures else "dim")
    if width >= WIDE:
        yield Text(client.reason, style="dim", overflow="ellipsis")


def _number(value: float | None, digits: int) -> Text:
    return Text("-" if value is None else f"{value:.{digits}f}")


def _rank(doing: Doing) -> int:
    return IN_TROUBLE.index(doing) if doing in IN_TROUBLE else 3 if doing in WORKING else 4


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``site-9`` before ``site-10``."""
    parts = re.split("([0-9]+)", name)
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]


def sparkline(values: list[float], width: int) -> str:
    """The last values as a line of bars, the lowest and the highest of them at its ends."""
    shown = values[-width:] if width else []
    if len(shown) < 2:
        return ""
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in shown)


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
