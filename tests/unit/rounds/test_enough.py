"""The rule that ends a phase."""

import math
from collections.abc import Collection

import pytest

from app.rounds.enough import Progress, Verdict, needed, quorum

WAIT, END, GIVE_UP = Verdict.WAIT, Verdict.END, Verdict.GIVE_UP
ALL = [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("replied", "failed", "alive", "seconds", "verdict"),
    [
        ({}, [], None, 0.0, WAIT),
        ({1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}, [], None, 4.0, END),
        ({1: 1.0, 2: 2.0}, [], None, 6.9, WAIT),
        ({1: 1.0, 2: 2.0}, [], None, 7.0, END),  # grace of 5 s, after the second reply
        ({1: 1.0, 2: 2.0}, [], [1, 2, 3], 3.0, WAIT),
        ({1: 1.0, 2: 2.0}, [], [1, 2], 3.0, END),  # nobody is waited for who is offline
        ({1: 1.0, 2: 2.0}, [3, 4], None, 3.0, END),
        ({1: 1.0}, [2], [1], 19.9, WAIT),  # too few, so those who are offline may come back
        ({1: 1.0}, [2], [1], 20.0, GIVE_UP),
        ({1: 1.0}, [2], [1, 9], 3.0, GIVE_UP),  # another one is there
        ({1: 1.0}, [2], [1, 3, 9], 3.0, WAIT),
        ({1: 1.0}, [2, 3, 4], None, 2.0, GIVE_UP),
        ({1: 19.0, 2: 19.5}, [], None, 20.0, END),
    ],
)
def test_a_phase_ends_with_enough_replies_and_gives_up_without(
    replied: dict[int, float],
    failed: list[int],
    alive: Collection[int] | None,
    seconds: float,
    verdict: Verdict,
) -> None:
    assert quorum(2, deadline=20.0, grace=5.0)(Progress(ALL, replied, seconds, failed, alive)) is verdict


def test_without_grace_a_phase_ends_at_its_deadline() -> None:
    assert quorum(1, deadline=math.inf)(Progress(ALL, {1: 0.1}, 1e9)) is WAIT


@pytest.mark.parametrize(
    ("min_replies", "wanted", "strict", "fewest", "expected"),
    [
        (0.6, 10, False, 1, 6),
        (0.5, 3, False, 1, 2),
        (1.0, 10, False, 1, 10),
        (1, 10, False, 1, 1),
        (12, 10, False, 1, 10),
        (0.01, 10, False, 1, 1),
        (0.5, 10, True, 1, 10),
        (0.5, 10, False, 7, 7),
        (0.1, 30, False, 1, 3),  # 0.1 * 30 is a little more than 3
    ],
)
def test_how_many_replies_are_needed(
    min_replies: int | float, wanted: int, strict: bool, fewest: int, expected: int
) -> None:
    assert needed(min_replies, wanted, strict=strict, fewest=fewest) == expected
