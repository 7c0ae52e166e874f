"""How alike updates are: cosines that one can check by hand, over a sample whose size is bounded."""

import numpy as np
import pytest

from app.packing.updates import MOST_NUMBERS, MOST_PAIRS, compare

START = {"a": np.ones((2, 2), np.float32), "steps": np.array([7]), "b": np.zeros(2, np.float32)}


def moved(*step: float) -> dict[str, np.ndarray]:
    along = np.array(step, np.float32)
    return {"a": START["a"] + along[:4].reshape(2, 2), "steps": np.array([9]), "b": START["b"] + along[4:]}


def test_cosines_between_updates_and_with_the_rest() -> None:
    right, up, left = moved(1, 0, 0, 0, 0, 0), moved(0, 0, 0, 0, 0, 2), moved(-3, 0, 0, 0, 0, 0)
    found = compare(START, [right, up, left])
    assert found.pairs == [[], [0], [-1, 0]]
    assert found.agreement == pytest.approx([-3 / 13**0.5, 0, -1 / 5**0.5], abs=1e-4)
    assert found.numbers == 6, "the whole numbers are no part of an update"


def test_who_has_not_moved_is_like_nobody() -> None:
    found = compare(START, [moved(0, 0, 0, 0, 0, 0), moved(1, 0, 0, 0, 0, 0)])
    assert found.agreement == [None, None] and found.pairs == [[], [None]]


def test_a_client_alone_has_nobody_to_be_like() -> None:
    assert compare(START, [moved(1, 0, 0, 0, 0, 0)]).agreement == [None]


def test_a_large_model_and_many_clients_cost_no_more() -> None:
    drawn = np.random.default_rng(1)
    start = {"w": np.zeros(1_000_000, np.float32), "b": np.zeros(10, np.float32)}
    common = drawn.standard_normal(1_000_000).astype(np.float32)
    own = [drawn.standard_normal(1_000_000).astype(np.float32) for _ in range(3)]
    updated = [{"w": common + each, "b": np.ones(10, np.float32)} for each in own]
    found = compare(start, updated)
    assert MOST_NUMBERS <= found.numbers <= MOST_NUMBERS + len(start)
    assert found.pairs[1][0] == pytest.approx(0.5, abs=0.02), "as of all the numbers"
    assert found == compare(start, updated), "the same numbers each time"
    many = compare(start, [updated[0]] * (MOST_PAIRS + 1))
    assert many.pairs == [] and set(many.agreement) == {1.0}
    assert compare(start, [updated[0]] * 200).numbers <= 4_000_000 // 200 + len(start)


def test_numbers_beyond_all_bounds_are_like_nothing() -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        huge = {"w": np.full(4, 3e38, np.float32)}
        assert compare({"w": np.full(4, -3e38, np.float32)}, [huge, huge]).agreement == [None, None]
