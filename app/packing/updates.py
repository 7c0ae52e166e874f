"""How alike clients' updates are: cosines over a fixed sample of the model's numbers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from app.packing.arrays import NDArray

MOST_NUMBERS = 65_536  # of a model, so that a large one costs no more
MOST_IN_ALL = 4_000_000
MOST_PAIRS = 32  # clients of which each two are compared


class Likeness(NamedTuple):
    """Of each update: its cosine with the sum of the others, and those with the ones before it."""

    agreement: list[float | None]
    pairs: list[list[float | None]]
    numbers: int


def compare(start: Mapping[str, NDArray], updated: Sequence[Mapping[str, NDArray]]) -> Likeness:
    """Compare models that began as ``start``. The cosine with an update of no length is None."""
    places = _places(start, min(MOST_NUMBERS, MOST_IN_ALL // max(len(updated), 1)))
    before = _sampled(start, places)
    steps = np.stack([_sampled(arrays, places) - before for arrays in updated])
    products = (steps @ steps.T).astype(np.float64)
    own, all_of = products.diagonal(), products.sum(1)
    others = np.maximum(products.sum() - 2 * all_of + own, 0)
    agreement = [_cosine(*each) for each in zip(all_of - own, own, others, strict=True)]
    few = len(steps) if len(steps) <= MOST_PAIRS else 0
    pairs = [[_cosine(products[i, j], own[i], own[j]) for j in range(i)] for i in range(few)]
    return Likeness(agreement, pairs, before.size)


def _places(arrays: Mapping[str, NDArray], most: int) -> dict[str, NDArray | slice]:
    """The floating-point numbers that are compared: all, or the same ones each time."""
    sizes = {name: array.size for name, array in arrays.items() if array.dtype.kind == "f"}
    total = sum(sizes.values())
    if total <= most:
        return dict.fromkeys(sizes, slice(None))
    drawn = np.random.default_rng(0)
    return {name: np.sort(drawn.integers(n, size=-(-n * most // total))) for name, n in sizes.items()}


def _sampled(arrays: Mapping[str, NDArray], places: Mapping[str, NDArray | slice]) -> NDArray:
    parts = [arrays[name].reshape(-1)[where] for name, where in places.items()]
    return np.concatenate([np.zeros(0), *parts], dtype=np.float32, casting="same_kind")


def _cosine(product: float, one: float, other: float) -> float | None:
    lengths = float(one * other) ** 0.5
    return round(float(product) / lengths, 4) if 0 < lengths < np.inf else None
