"""Figures of the course of a run: who took part, by round and by time."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from app.watch.report.drawing import Figure, Table, colour, sheet
from app.watch.report.gather import EVALUATE, TRAIN, Reply, Run

MOST_ROWS = 40  # clients in a figure; the files have all
MOST_APART = 30  # rounds whose bars have a gap between them
# What became of a client in a round, from what matters most to what matters least: sign, word, colour.
STATES = {
    "rejected": ("✕", "reply left out", "c4"),
    "late": ("?", "no reply in time", "c2"),
    "lost": ("↯", "lost, no reply", "bad"),
    "absent": ("-", "not there", "none"),
    "returned": ("↺", "lost and back", "c5"),
    "slow": ("S", "slow", "c5"),
    "limited": ("L", "counted as less", "c6"),
    "good": ("", "took part", "c3"),
    "idle": ("·", "not asked", "none"),
}

# What people read of a fault, by its event.
WORDS = {
    "reply_rejected": "reply left out",
    "reply_late": "no reply in time",
    "reply_limited": "counted as less",
    "client_lost": "client lost",
    "client_returned": "client back",
    "phase_retried": "phase tried again",
    "run_resumed": "run went on",
    "average_refused": "average refused",
    "privacy_budget_spent": "privacy budget spent",
    "clients_awaited": "clients awaited",
}


def states(run: Run) -> dict[str, list[str]]:
    """What became of each client in each round that was begun: the first of STATES that is true."""
    numbers = round_numbers(run)
    of: dict[tuple[str, int], set[str]] = {}
    kinds = {
        "reply_rejected": "rejected", "reply_late": "late", "client_lost": "lost",
        "client_returned": "returned", "reply_limited": "limited",
    }  # fmt: skip
    for fault in run.faults:
        if fault.counts and fault.client and fault.kind in kinds:
            of.setdefault((fault.client, fault.round), set()).add(kinds[fault.kind])
    replied = Counter((reply.client, reply.round) for reply in run.replies)
    asked = Counter((client, number) for (number, _), clients in run.asked.items() for client in set(clients))
    slow = {(client, number) for number, _, client in run.slow()}
    share = run.settings.get("fraction-train", 1.0)
    everyone_trains = not isinstance(share, int | float) or share >= 1
    found: dict[str, list[str]] = {}
    for client in run.clients:
        row = []
        for number in numbers:
            key = client, number
            marks = of.get(key, set()) | ({"slow"} if key in slow else set())
            if "returned" in marks or replied[key]:
                marks.discard("lost")
            if "late" in marks and "lost" in marks:
                marks.discard("late")
            marks.add("good" if replied[key] else "idle" if asked[key] or not everyone_trains else "absent")
            row.append(next(state for state in STATES if state in marks))
        found[client] = row
    return found


def round_numbers(run: Run) -> list[int]:
    """The rounds that were begun, in order."""
    return sorted({number for number, _ in run.asked} | {each.number for each in run.rounds} - {0})


def chosen(run: Run, by_client: dict[str, list[str]]) -> list[str]:
    """The clients that a figure shows: all, or those with most faults."""
    if len(by_client) <= MOST_ROWS:
        return list(by_client)
    faults = {c: sum(s not in ("good", "idle") for s in row) for c, row in by_client.items()}
    worst = set(sorted(by_client, key=lambda client: -faults[client])[:MOST_ROWS])
    return [client for client in by_client if client in worst]


def short(name: str, most: int = 22) -> str:
    """A name that fits beside a figure: its beginning and its end."""
    half = most // 2
    return name if len(name) <= most else f"{name[: most - half - 1]}…{name[-half:]}"


def took_part(run: Run) -> Figure | None:
    """Clients by rounds: what became of each."""
    by_client, numbers = states(run), round_numbers(run)
    if not by_client or not numbers:
        return None
    clients = chosen(run, by_client)
    cell = min(0.34, max(0.06, 9.0 / len(numbers)))
    width = max(4.2, 1.9 + cell * len(numbers))
    with sheet("took-part", width, 1.25 + 0.24 * len(clients)) as made:
        axes = made.axes
        order = list(STATES)
        for row, client in enumerate(clients):
            for state in dict.fromkeys(by_client[client]):
                at = [i for i, s in enumerate(by_client[client]) if s == state]
                sign, _, tone = STATES[state]
                axes.broken_barh([(i - 0.46, 0.92) for i in at], (row - 0.42, 0.84), color=colour(tone))
                if sign and cell > 0.12:
                    ink = colour("soft") if tone == "none" else colour("card")
                    for i in at:
                        axes.text(
                            i, row, sign, ha="center", va="center", color=ink, fontsize=9, weight="bold"
                        )
        _rows(axes, clients)
        step = max(1, round(len(numbers) / (width * 2.2)))
        axes.set_xticks(range(0, len(numbers), step), [str(n) for n in numbers[::step]])
        axes.set_xlim(-0.6, len(numbers) - 0.4)
        axes.set_xlabel("round")
        seen = [state for state in order if any(state in by_client[client] for client in clients)]
        marks = [axes.barh(0, 0, color=colour(STATES[state][2])) for state in seen]
        words = [f"{STATES[state][0]} {STATES[state][1]}".strip() for state in seen]
        made.canvas.legend(marks, words, loc="outside upper left", ncols=3 if width < 6 else 6, fontsize=9)
    table = Table(
        ["client", *(f"round {number}" for number in numbers)],
        [[client, *(STATES[state][1] for state in row)] for client, row in by_client.items()],
    )
    bad = sum(state not in ("good", "idle") for row in by_client.values() for state in row)
    more = (
        f" {len(clients)} of {len(by_client)} clients are drawn: those with most faults."
        if len(clients) < len(by_client)
        else ""
    )
    said = (
        f"{len(by_client)} clients in {len(numbers)} rounds: in {bad} of {len(by_client) * len(numbers)} "
        f"places something was not as usual.{more}"
    )
    return made.figure("took-part", "Who took part, by round", said, table)


def _rows(axes: Any, clients: Sequence[str]) -> None:
    """Name the rows of a figure, the first one on top."""
    axes.set_yticks(range(len(clients)), [short(client) for client in clients])
    axes.set_ylim(len(clients) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)


def timeline(run: Run) -> Figure | None:
    """Time from left to right: each reply a bar, each fault a mark, each new start a line."""
    if not run.replies and not run.faults:
        return None
    began = run.began or datetime.now(UTC)
    by_client = states(run)
    clients = chosen(run, by_client)
    row_of = {client: row for row, client in enumerate(clients)}

    def at(time: datetime) -> float:
        return (time - began).total_seconds()

    unit, per = ("min", 60.0) if run.ended and at(run.ended) > 600 else ("s", 1.0)
    with sheet("timeline", 8.6, 1.5 + 0.24 * max(len(clients), 1)) as made:
        axes = made.axes
        for replies, word, look in _bars(run):
            half = 0.22 if word == "evaluation" else 0.36
            for client, row in row_of.items():
                bars = [
                    (at(reply.begun) / per, max(reply.seconds, 0.01) / per)
                    for reply in replies
                    if reply.client == client
                ]
                axes.broken_barh(bars, (row - half, 2 * half), **look)
            if replies:
                axes.barh(0, 0, label=word, **look)
        _marks(axes, run, row_of, lambda time: at(time) / per)
        _rows(axes, clients)
        axes.set_xlabel(f"{unit} since the run began")
        axes.set_xlim(left=0)
        axes.grid(axis="x")
        made.canvas.legend(loc="outside upper left", ncols=4, fontsize=9)
    rows = [
        [round(at(r.begun), 3), r.round, r.phase, r.client, what, round(r.seconds, 3), ""]
        for what, replies in (("reply", run.replies), ("reply, run again", run.undone))
        for r in replies
    ]
    rows += [[round(at(f.time), 3), f.round, f.phase, f.client, f.kind, "", f.reason] for f in run.faults]
    table = Table(
        ["seconds since the start", "round", "phase", "client", "what", "seconds", "reason"],
        sorted(rows, key=lambda row: (row[0], row[1])),
        frozenset({0, 1, 5}),
    )
    counts = Counter(WORDS.get(fault.kind, fault.kind) for fault in run.faults)
    told = ", ".join(f"{word}: {count}" for word, count in counts.items()) or "no faults"
    said = f"Each reply as a bar over {at(run.ended or began) / per:.1f} {unit}; {told}."
    return made.figure("timeline", "Who took part, by time", said, table)


def _bars(run: Run) -> list[tuple[list[Reply], str, dict[str, Any]]]:
    """Replies, what they are called, and how their bars look."""

    def look(tone: str) -> dict[str, Any]:
        apart = len(run.rounds) <= MOST_APART
        return {"facecolor": colour(tone), "linewidth": 0.6, "edgecolor": colour("card" if apart else tone)}

    return [
        ([r for r in run.replies if r.phase == TRAIN], "training", look("c1")),
        ([r for r in run.replies if r.phase == EVALUATE], "evaluation", look("c6")),
        (
            run.undone,
            "cut off and run again",
            {"facecolor": colour("none"), "edgecolor": colour("soft"), "hatch": "///", "linewidth": 0.8},
        ),
    ]


_SIGNS = {
    "client_lost": ("lost", "X", "bad", -0.2),
    "client_returned": ("back", "^", "c3", -0.2),
    "reply_late": ("no reply in time", "D", "c2", 0.2),
    "reply_rejected": ("reply left out", "s", "c4", 0.2),
    "reply_limited": ("counted as less", "v", "c6", 0),
}
_LINES = {
    "run_resumed": ("run goes on", "c4", "--"),
    "phase_retried": ("phase tried again", "c2", ":"),
    "average_refused": ("average refused", "bad", "-."),
}


def _marks(axes: Any, run: Run, row_of: dict[str, int], at: Callable[[datetime], float]) -> None:
    for kind, (word, marker, tone, aside) in _SIGNS.items():
        found = [fault for fault in run.faults if fault.kind == kind and fault.client in row_of]
        if found:
            axes.scatter(
                [at(fault.time) for fault in found],
                [row_of[fault.client] + aside for fault in found],
                marker=marker, s=46, color=colour(tone), edgecolor=colour("card"), linewidth=0.8, zorder=5, label=word,
            )  # fmt: skip
    for kind, (word, tone, dashes) in _LINES.items():
        for number, fault in enumerate(fault for fault in run.faults if fault.kind == kind):
            axes.axvline(
                at(fault.time),
                color=colour(tone), linestyle=dashes, linewidth=1.6, zorder=4, label=word if number == 0 else None,
            )  # fmt: skip
