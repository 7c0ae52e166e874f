"""When a phase has enough replies: a rule looks at what there is and says wait, end, or give up."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

# A message lives for so much longer than anybody waits for its reply. A reply that is older than its message may be is
# refused, and the client's clock says how old it is.
CLOCKS_DIFFER_S = 600.0


class Verdict(Enum):
    """What a phase does next."""

    WAIT = "wait"
    END = "end"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class Progress:
    """A phase as a rule sees it.

    Attributes:
        asked: nodes that were sent a message.
        replied: those of them whose reply is there, with the seconds after which it came.
        seconds: since the messages were sent.
        failed: those whose reply is an error.
        alive: those that the SuperLink takes for online; None where nobody has asked.
    """

    asked: Collection[int]
    replied: Mapping[int, float]
    seconds: float
    failed: Collection[int] = field(default=())
    alive: Collection[int] | None = None


Rule = Callable[[Progress], Verdict]


def needed(min_replies: int | float, wanted: int, *, strict: bool = False, fewest: int = 1) -> int:
    """Usable replies that a phase needs of ``wanted`` clients; ``min_replies`` is a number or, as a float, a fraction."""
    share = min_replies if isinstance(min_replies, int) else math.ceil(round(min_replies * wanted, 6))
    return wanted if strict else min(wanted, max(share, fewest, 1))


def quorum(least: int, deadline: float, grace: float = math.inf) -> Rule:
    """Wait for all replies; with ``least`` of them, no longer than ``grace`` seconds for the rest.

    A client that is offline is not waited for once ``least`` are there. Below that a phase waits for it until
    ``deadline`` seconds have passed, and then gives up; at once where others are online who can be asked in its place.
    """

    def rule(progress: Progress) -> Verdict:
        times = sorted(progress.replied.values())
        open_ = set(progress.asked) - progress.replied.keys() - set(progress.failed)
        alive = open_ if progress.alive is None else set(progress.alive)
        if len(times) < least:
            idle = not open_ & alive and alive - set(progress.asked)
            return Verdict.WAIT if open_ and progress.seconds < deadline and not idle else Verdict.GIVE_UP
        open_ &= alive
        met = times[least - 1] if least else 0.0
        over = progress.seconds >= deadline or progress.seconds - met >= grace
        return Verdict.END if over or not open_ else Verdict.WAIT

    return rule
