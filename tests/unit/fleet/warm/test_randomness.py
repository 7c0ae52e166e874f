"""Which global generators an app seeds while it is imported."""

import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from app.fleet.warm.parent import load_file

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def randomness() -> ModuleType:
    """The module as a new process has it, with generators that nobody has seeded."""
    random.seed()
    np.random.seed()
    torch.seed()
    return load_file(ROOT / "app" / "fleet" / "warm" / "randomness.py")


def _draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def _seed() -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)


def _seed_and_take_back() -> None:
    _draw()
    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    _seed()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _fork() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)


def _seed_and_seed_anew() -> None:
    _seed()
    random.seed()
    np.random.seed()
    torch.seed()


def _load_states() -> None:
    random.setstate(random.Random(5).getstate())
    np.random.set_state(np.random.RandomState(5).get_state())
    torch.set_rng_state(torch.Generator().manual_seed(5).get_state())


@pytest.mark.parametrize(
    ("at_import", "repeats"),
    [
        (_draw, False),
        (_seed_and_take_back, False),
        (_fork, False),
        (_seed_and_seed_anew, False),
        (_seed, True),
        (_load_states, True),
        (lambda: (_seed(), _seed_and_take_back()), True),
    ],
)
def test_only_a_seed_that_is_left_makes_two_forks_draw_the_same(
    at_import: Callable[[], object], repeats: bool, randomness: ModuleType
) -> None:
    with randomness.watch_import():
        at_import()
    state = random.getstate()
    drawn = []
    for _ in range(2):
        random.setstate(state)  # a fork of the same process; its hook seeds ``random``
        random.seed()
        randomness.renew()
        drawn.append(_draw())
    assert [first == second for first, second in zip(*drawn, strict=True)] == [repeats] * 3


def test_a_seeded_fork_begins_where_the_import_ended_whatever_the_warm_up_drew(
    randomness: ModuleType,
) -> None:
    with randomness.watch_import():
        _seed()
    expected = _draw()
    _draw()
    randomness.renew()
    assert _draw() == expected
