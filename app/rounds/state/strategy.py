"""What a strategy remembers between rounds, as arrays and numbers that can be saved.

Read in flwr 1.39.0, ``serverapp/strategy``. Everything else in a strategy comes from the settings, or is set anew when
a round is configured; a test compares both lists with what the strategies really hold.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import GaussianPrivacyEvent
from flwr.serverapp.strategy import Strategy

from app.packing.arrays import NDArray, from_record, to_record
from app.rounds.privacy import POPULATION

# By the class that defines them; a strategy has those of all its base classes.
REMEMBERED: dict[str, tuple[str, ...]] = {
    "FedAvgM": ("current_arrays", "momentum_vector"),
    "FedOpt": ("m_t", "v_t"),
    "_EqualWeights": ("num_sampled_clients", "noise_key"),
    "_Adaptive": ("clipping_norm",),
}
RELEASES = "privacy-releases"


def strategy_state(strategy: Strategy) -> tuple[dict[str, NDArray], dict[str, float]]:
    """The arrays and numbers that ``strategy``, and the one inside it, remember; by their path."""
    arrays: dict[str, NDArray] = {}
    numbers: dict[str, float] = {}
    for prefix, each in _layers(strategy):
        for name in _names(each):
            value = getattr(each, name)
            if isinstance(value, int | float):
                numbers[f"{prefix}{name}"] = value
            elif value is not None:
                arrays |= {f"{prefix}{name}/{key}": array for key, array in _items(value)}
        if (accountant := getattr(each, "accountant", None)) is not None:
            numbers[f"{prefix}{RELEASES}"] = accountant.get_privacy_spent().num_releases
    return arrays, numbers


def restore_strategy(strategy: Strategy, arrays: dict[str, NDArray], numbers: dict[str, float]) -> None:
    """Give a fresh ``strategy`` what :func:`strategy_state` took from another one with the same settings."""
    for prefix, each in _layers(strategy):
        for name in _names(each):
            path = f"{prefix}{name}"
            if path in numbers:
                setattr(each, name, numbers[path])
                continue
            own = {key[len(path) + 1 :]: array for key, array in arrays.items() if key.startswith(f"{path}/")}
            if own:
                setattr(each, name, _value(each, name, own))
    add_releases(
        strategy, {prefix: int(numbers.get(f"{prefix}{RELEASES}", 0)) for prefix, _ in _layers(strategy)}
    )


def add_releases(strategy: Strategy, counts: Mapping[str, int]) -> None:
    """Count private releases that a fresh accountant does not know of, by the layer of the strategy."""
    for prefix, each in _layers(strategy):
        if (accountant := getattr(each, "accountant", None)) is not None and counts.get(prefix):
            multiplier = getattr(each, "spent_multiplier", None) or each.noise_multiplier
            accountant.compose(GaussianPrivacyEvent(multiplier, 1, POPULATION), counts[prefix])


def keep_strategy(strategy: Strategy) -> Callable[[], None]:
    """A function that gives ``strategy`` back what it remembers now. Flower's strategies replace arrays and change none."""
    held = [(each, name, getattr(each, name)) for _, each in _layers(strategy) for name in _names(each)]

    def restore() -> None:
        for each, name, value in held:
            setattr(each, name, value)

    return restore


def _layers(strategy: Any) -> list[tuple[str, Any]]:
    """The strategy, and the one that a privacy wrapper holds."""
    inner = getattr(strategy, "strategy", None)
    return [("", strategy)] + ([("inner/", inner)] if inner is not None else [])


def _names(strategy: Any) -> list[str]:
    return [name for kind in type(strategy).__mro__ for name in REMEMBERED.get(kind.__name__, ())]


def _items(value: Any) -> list[tuple[str, NDArray]]:
    if isinstance(value, ArrayRecord):
        return list(from_record(value).items())
    if isinstance(value, dict):
        return list(value.items())
    return [(str(number), np.asarray(array)) for number, array in enumerate(value)]


def _value(strategy: Any, name: str, arrays: dict[str, NDArray]) -> Any:
    """The arrays in the form in which ``strategy`` holds them."""
    if name == "momentum_vector":
        return [arrays[str(number)] for number in range(len(arrays))]
    return to_record(arrays) if name == "current_arrays" else arrays
