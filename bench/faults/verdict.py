"""What a fault has cost a run, decided from the outside and alike for all contenders."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Mark:
    """A client began or ended its training in a round (counted from 1) at `time` (seconds since the epoch)."""

    what: Literal["begin", "end"]
    client: int
    round: int
    time: float


@dataclass(slots=True)
class Outcome:
    """One run with one fault."""

    fault: str
    done: bool
    """Whether the run reached its end, as its own command or status tells."""
    ended: bool
    """Whether the contender says that the run has ended, well or not; False: the bound came first."""
    word: str
    """How the contender says that the run stands."""
    seconds: float
    """From the first training to the end of the run, or to the bound."""
    marks: list[Mark] = field(default_factory=list)
    noticed_s: float | None = None
    """Seconds after which a killed client was noticed; None: never within the bound."""
    told: bool | None = None
    """Whether the end result names the client that missed rounds; None: none did, or there is no end result."""
    problem: str = ""
    """Why there is no measurement."""


def rounds_again(marks: Iterable[Mark], faulty: int) -> int:
    """Rounds that were begun again: a client other than the faulty one began to train in them more than once."""
    begun = Counter(
        (mark.client, mark.round) for mark in marks if mark.what == "begin" and mark.client != faulty
    )
    return len({server_round for (_, server_round), times in begun.items() if times > 1})


def rounds_begun(marks: Iterable[Mark]) -> int:
    """The highest round in which anybody trained: what is lost with the run where it never ends."""
    return max((mark.round for mark in marks), default=0)


def rounds_missed(marks: Sequence[Mark], client: int) -> int:
    """Rounds in which others finished their training and this client did not."""
    ended = {mark.round for mark in marks if mark.what == "end" and mark.client != client}
    own = {mark.round for mark in marks if mark.what == "end" and mark.client == client}
    return len(ended - own)


def round_seconds(marks: Iterable[Mark], faulty: int) -> dict[int, float]:
    """Seconds of each round, as the clients other than the faulty one see it.

    From the first training that began in it to the first that began in the next round; of the last, to the last that ended.
    """
    others = sorted((mark for mark in marks if mark.client != faulty), key=lambda mark: mark.time)
    began: dict[int, float] = {}
    for mark in others:
        began.setdefault(mark.round, mark.time)
    starts = [began[number] for number in sorted(began)]
    ends = [*starts[1:], others[-1].time] if others else []
    return {number: end - start for number, start, end in zip(sorted(began), starts, ends, strict=True)}


def seconds_lost(marks: Iterable[Mark], faulty: int, fault_round: int) -> float:
    """Seconds that the round with the fault took more than the same run's other rounds do, in the median, after the first.

    Within one run, because a machine is often slower for one run than for the next.
    """
    seconds = round_seconds(marks, faulty)
    others = [each for number, each in seconds.items() if number not in (1, fault_round)]
    return seconds[fault_round] - statistics.median(others or [seconds[fault_round]])


def run_longer_s(outcome: Outcome, undisturbed: Sequence[Outcome]) -> float:
    """Seconds that the whole run took more than the mean of the contender's undisturbed runs."""
    return outcome.seconds - statistics.mean(run.seconds for run in undisturbed)
