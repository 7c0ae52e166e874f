"""A run that is saved and loaded between two rounds goes on as if nothing had happened, bit for bit."""

import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from in_process import FakeGrid, identify, learn

from app.errors import UserError
from app.packing import arrays as packing
from app.rounds.loop import Rounds
from app.rounds.privacy import privacy_report
from app.rounds.results import Summary
from app.rounds.state.run import STATE, SUMS, RunState
from app.rounds.state.strategy import REMEMBERED, strategy_state
from app.rounds.strategies import make_strategy
from app.settings import RunSettings, Strategy

CLIENTS = 7  # what bulyan needs with one liar
PRIVACY: tuple[dict[str, Any], ...] = (
    {"privacy": "central-fixed"},
    {"privacy": "central-fixed", "clipping_side": "client"},
    {"privacy": "central-adaptive"},
    {"privacy": "central-adaptive", "clipping_side": "client"},
    {"privacy": "local"},
)
EVERY = [
    *({"strategy": name} for name in get_args(Strategy)),
    *({"strategy": name, **privacy} for name in ("fedavg", "fedprox") for privacy in PRIVACY),
]


def _settings(rounds: int, **changes: Any) -> RunSettings:
    counts = {"min_available_nodes": CLIENTS, "min_train_nodes": CLIENTS, "min_evaluate_nodes": 0}
    return RunSettings(
        num_server_rounds=rounds, fraction_evaluate=0.0, round_deadline=5.0, **counts, **changes
    )


def _start(settings: RunSettings) -> RunState:
    generator = np.random.default_rng(3)
    arrays = {"z": generator.normal(size=(4, 5)).astype(np.float32), "a": np.ones(3, np.float32)}
    return RunState(0, packing.to_record(arrays), make_strategy(settings), Summary(run="run"))


def _go_on(settings: RunSettings, state: RunState) -> RunState:
    identify()
    grid = FakeGrid(CLIENTS, _clipped_note)
    Rounds(grid.as_grid(), settings, state, lambda _: (0.0, 0.0), lambda _: None).run()
    return state


def _clipped_note(node: int, message: Any) -> Any:
    """With clipping on the client, its reply says whether it clipped."""
    reply = learn(node, message)
    if "norm_bit" in str(message.content) or "clipping_norm" in str(message.content):
        reply.content.metric_records["metrics"]["norm_bit"] = node % 2
    return reply


def _bytes(state: RunState) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in packing.from_record(state.arrays).items()}


@pytest.mark.parametrize("changes", EVERY, ids=lambda changes: "-".join(map(str, changes.values())))
def test_every_strategy_goes_on_bit_for_bit(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "urandom", lambda size: bytes(size))  # one key of the privacy noise for both runs
    whole = _go_on(_settings(4, **changes), _start(_settings(4, **changes)))
    first = _go_on(_settings(2, **changes), _start(_settings(2, **changes)))
    first.save(tmp_path / "2")
    settings = _settings(4, **changes)
    second = RunState.load(tmp_path / "2", make_strategy(settings))
    assert second.round == 2 and list(second.arrays) == ["z", "a"]
    assert second.seen_examples == first.seen_examples and second.partition_of == first.partition_of
    _go_on(settings, second)
    assert second.round == 4 and _bytes(second) == _bytes(whole)


@pytest.mark.parametrize("kind", ["central-fixed", "central-adaptive"])
def test_the_privacy_spent_is_not_forgotten(kind: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"privacy": kind, "noise_multiplier": 1.0}
    first = _go_on(_settings(2, **changes), _start(_settings(2, **changes)))
    first.save(tmp_path / "2")
    second = RunState.load(tmp_path / "2", make_strategy(_settings(4, **changes)))
    before, after = (state.strategy.accountant.get_privacy_spent() for state in (first, second))  # type: ignore[attr-defined]
    assert (after.epsilon, after.num_releases) == (before.epsilon, 2)


def test_nothing_that_a_strategy_changes_is_left_out() -> None:
    """What differs between a fresh strategy and one after two rounds is remembered, or is set anew each round."""
    anew = {
        "min_available_nodes",
        "min_train_nodes",
        "min_evaluate_nodes",
        "current_arrays",
        "_pending_events",
        "_next_norm",
        "accountant",
        "strategy",
    }
    for changes in EVERY:
        settings = _settings(2, **changes)
        used = _go_on(settings, _start(settings)).strategy
        for fresh, after in ((make_strategy(settings), used),):
            remembered = {n for kind in type(after).__mro__ for n in REMEMBERED.get(kind.__name__, ())}
            changed = {n for n, v in vars(after).items() if not _same(v, vars(fresh).get(n))}
            assert changed <= remembered | anew, changes


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return str(one) == str(other)
    if callable(one) or hasattr(one, "__dict__"):
        return type(one) is type(other)
    return bool(one == other)


def test_a_state_that_is_damaged_or_not_whole_is_refused_by_name(tmp_path: Path) -> None:
    settings = _settings(2)
    state = _start(settings)
    state.save(tmp_path / "0")
    (tmp_path / "0" / STATE).write_text("{}")
    with pytest.raises(UserError, match=r"state\.json is damaged"):
        RunState.load(tmp_path / "0", make_strategy(settings))
    (tmp_path / "0" / SUMS).unlink()
    with pytest.raises(UserError, match="holds no state of a run"):
        RunState.load(tmp_path / "0", make_strategy(settings))
    state.save(tmp_path / "0")
    assert RunState.load(tmp_path / "0", make_strategy(settings)).round == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["0"], "nothing is left beside it"


def test_a_fresh_strategy_remembers_nothing() -> None:
    assert strategy_state(make_strategy(_settings(1, strategy="fedadam"))) == ({}, {})


@pytest.mark.parametrize("kind", ["central-fixed", "central-adaptive", "local"])
def test_a_round_that_is_run_again_has_cost_privacy_twice(kind: str) -> None:
    """Its model went to the clients for evaluation, and the second one may come from other replies."""
    settings = _settings(2, privacy=kind, noise_multiplier=1.0)
    state = _go_on(_settings(1, privacy=kind, noise_multiplier=1.0), _start(settings))
    finished = [{"event": "phase_finished", "phase": "train", "round": number} for number in (1, 2)]
    state.count_repeated([{"event": "run_started"}, *finished, {**finished[1], "phase": "evaluate"}])
    assert state.repeated == 1
    _go_on(settings, state)
    report = privacy_report(state.strategy, settings, 2 + state.repeated)
    assert report is not None and report["releases"] == 3
