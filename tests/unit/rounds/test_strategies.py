"""Every strategy by name does what its paper says with real updates; privacy is calibrated and counted."""

from collections.abc import Iterable
from typing import Any, get_args

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.exception import PrivacyBudgetExhausted
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from flwr.supercore.task_identity import TaskIdentity

from app.errors import UserError
from app.packing.arrays import from_record, to_record
from app.rounds.privacy import privacy_report
from app.rounds.strategies import average_metrics, make_strategy
from app.settings import RunSettings, Strategy

NODES = list(range(1, 12))


class Nodes:
    """The part of a grid that strategies use."""

    def get_node_ids(self) -> Iterable[int]:
        return NODES


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)


def settings(**keys: Any) -> RunSettings:
    eleven = {"min_train_nodes": 11, "min_available_nodes": 11, "min_evaluate_nodes": 5}
    return RunSettings(**(eleven | keys))


def reply(message: Message, value: float, examples: int = 10, **metrics: float) -> Message:
    arrays = to_record({"w": np.full((20, 10), value, np.float32), "b": np.full(5, value, np.float32)})
    numbers = MetricRecord({"num-examples": examples, "train_loss": 1.0, "partition-id": 3, **metrics})
    return Message(RecordDict({"arrays": arrays, "metrics": numbers}), reply_to=message)


def ask(strategy: FlowerStrategy, server_round: int = 1, value: float = 0.0) -> list[Message]:
    arrays = to_record({"w": np.full((20, 10), value, np.float32), "b": np.full(5, value, np.float32)})
    return list(strategy.configure_train(server_round, arrays, ConfigRecord(), Nodes()))  # type: ignore[arg-type]


def value_of(arrays: ArrayRecord | None) -> float:
    assert arrays is not None
    return float(from_record(arrays)["w"].mean())


def aggregate(strategy: FlowerStrategy, values: list[float], examples: list[int] | None = None) -> float:
    messages = ask(strategy)
    counts = examples or [10] * len(values)
    replies = [reply(m, v, n) for m, v, n in zip(messages, values, counts, strict=True)]
    return value_of(strategy.aggregate_train(1, replies)[0])


HONEST = [1.0] * 9
LIARS = [100.0, -300.0]


@pytest.mark.parametrize("name", get_args(Strategy))
def test_every_strategy_moves_towards_the_clients(name: str) -> None:
    strategy = make_strategy(settings(strategy=name, q=0.1))
    assert type(strategy).__name__.lower() == name
    moved = aggregate(strategy, [1.0] * 11)
    assert 0.0 < moved <= 1.0001


@pytest.mark.parametrize("name", ["fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"])
def test_robust_strategies_withstand_two_liars(name: str) -> None:
    strategy = make_strategy(settings(strategy=name, num_malicious_nodes=2))
    assert aggregate(strategy, HONEST + LIARS) == pytest.approx(1.0)
    assert aggregate(make_strategy(settings()), HONEST + LIARS) < -10


def test_weights_are_examples() -> None:
    values, examples = [0.0] * 10 + [1.0], [10] * 10 + [100]
    assert aggregate(make_strategy(settings()), values, examples) == pytest.approx(0.5)


def test_settings_reach_the_strategy() -> None:
    made: Any = make_strategy(settings(strategy="fedadam", eta=0.5, beta_1=0.1, beta_2=0.2, tau=0.3))
    assert (made.eta, made.beta_1, made.beta_2, made.tau) == (0.5, 0.1, 0.2, 0.3)
    made = make_strategy(settings(strategy="fedavgm", server_learning_rate=0.5, server_momentum=0.3))
    assert (made.server_learning_rate, made.server_momentum) == (0.5, 0.3)
    made = make_strategy(settings(strategy="fedprox", proximal_mu=0.7))
    assert ask(made)[0].content.config_records["config"]["proximal-mu"] == 0.7
    made = make_strategy(settings(strategy="multikrum", num_malicious_nodes=2))
    assert (made.num_malicious_nodes, made.num_nodes_to_select) == (2, 9)
    made = make_strategy(settings(strategy="fedtrimmedavg", beta=0.3))
    assert made.beta == 0.3
    made = make_strategy(settings(fraction_train=0.4, fraction_evaluate=0.2, min_train_nodes=3))
    assert len(ask(made)) == 4


def test_metrics_are_means_over_examples_and_leave_identity_out() -> None:
    def record(**metrics: float) -> RecordDict:
        return RecordDict({"metrics": MetricRecord(metrics | {})})

    averaged = average_metrics(
        [
            record(**{"num-examples": 30, "eval_accuracy": 0.5, "partition-id": 0, "on-gpu": 0}),
            record(**{"num-examples": 10, "eval_accuracy": 0.1, "partition-id": 9, "on-gpu": 0}),
            record(**{"num-examples": 0, "eval_accuracy": float("nan"), "partition-id": 4, "on-gpu": 0}),
        ],
        "num-examples",
    )
    assert dict(averaged) == {"eval_accuracy": pytest.approx(0.4)}


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("privacy", ["central-fixed", "central-adaptive"])
def test_central_privacy_weighs_clients_alike_and_adds_calibrated_noise(privacy: str, side: str) -> None:
    keys = {"privacy": privacy, "clipping_side": side, "clipping_norm": 1000.0, "clipped_count_stddev": 50.0}
    values, examples = [0.0] * 10 + [11.0], [10] * 10 + [100_000]
    spreads = []
    for noise in (0.0, 0.02):
        strategy = make_strategy(settings(noise_multiplier=noise, **keys))
        messages = ask(strategy)
        replies = [reply(m, v, n, norm_bit=0) for m, v, n in zip(messages, values, examples, strict=True)]
        arrays, metrics = strategy.aggregate_train(1, replies)
        assert value_of(arrays) == pytest.approx(1.0, abs=0.5)  # with num-examples as weights it would be 11
        assert metrics is not None and set(metrics) == {"train_loss"}
        assert arrays is not None
        spreads.append(float(from_record(arrays)["w"].std()))
    assert spreads[0] == 0.0
    assert spreads[1] == pytest.approx(0.02 * 1000 / 11, rel=0.25)  # multiplier * norm / clients


def test_updates_are_clipped_on_the_server() -> None:
    strategy = make_strategy(settings(privacy="central-fixed", clipping_norm=0.5, noise_multiplier=0.0))
    moved = aggregate(strategy, [1.0] * 11)
    assert moved * 205**0.5 == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("side", ["server", "client"])
def test_the_adaptive_norm_follows_the_updates(side: str) -> None:
    keys = {
        "privacy": "central-adaptive",
        "clipping_side": side,
        "noise_multiplier": 0.0,
        "clipping_norm": 0.1,
    }
    strategy: Any = make_strategy(settings(**keys))
    norms = []
    for server_round in range(1, 80):
        messages = ask(strategy, server_round)
        sent = messages[0].content.config_records["config"].get("clipping_norm")
        assert sent == (strategy.clipping_norm if side == "client" else None)
        clipped = int(strategy.clipping_norm < 205**0.5)
        strategy.aggregate_train(server_round, [reply(m, 1.0, norm_bit=clipped) for m in messages])
        norms.append(strategy.clipping_norm)
    assert norms[0] > 0.1  # all were clipped, so the norm must rise
    assert norms[-1] == pytest.approx(205**0.5, rel=0.2)


def test_noise_is_scaled_to_the_clients_that_replied() -> None:
    strategy = make_strategy(settings(privacy="central-fixed", noise_multiplier=0.02, clipping_norm=1000.0))
    arrays, _ = strategy.aggregate_train(1, [reply(m, 1.0) for m in ask(strategy)[:4]])
    assert arrays is not None
    assert float(from_record(arrays)["w"].std()) == pytest.approx(0.02 * 1000 / 4, rel=0.25)


def _noisy(value: float, server_round: int = 1, **same: Any) -> bytes:
    """One round's model: of a run with a key of its own, unless ``same`` has one."""
    strategy: Any = make_strategy(settings(privacy="central-fixed", noise_multiplier=1.0))
    strategy.noise_key = same.get("key", strategy.noise_key)
    replies = [reply(message, value) for message in ask(strategy, server_round)]
    arrays, _ = strategy.aggregate_train(server_round, replies)
    return from_record(arrays)["w"].tobytes()


def test_noise_repeats_for_the_same_replies_of_the_same_run_and_round_only() -> None:
    """Two models with the same noise and other replies would show an update without noise."""
    key = {"key": np.arange(64, dtype=np.uint8)}
    first = _noisy(1.0, key=key)
    assert first == _noisy(1.0, key=key)
    others = [_noisy(1.0), _noisy(1.0, 2, key=key), _noisy(1.5, key=key)]
    noise = [np.frombuffer(model, np.float32).astype(np.float64) for model in (first, *others)]
    for one in range(4):
        for other in range(one):
            assert abs(np.corrcoef(noise[one], noise[other])[0, 1]) < 0.4, "200 numbers each"


@pytest.mark.parametrize("privacy", ["central-fixed", "central-adaptive"])
def test_the_budget_is_counted_and_kept(privacy: str) -> None:
    pytest.importorskip("dp_accounting")
    chosen = settings(privacy=privacy, noise_multiplier=2.0, max_epsilon=6.0)
    strategy = make_strategy(chosen)
    spent = []
    with pytest.raises(PrivacyBudgetExhausted):
        for server_round in range(1, 50):
            messages = ask(strategy, server_round)
            strategy.aggregate_train(server_round, [reply(m, 0.1) for m in messages])
            report = privacy_report(strategy, chosen, server_round)
            assert report is not None and report["releases"] == server_round
            spent.append(report["epsilon"])
    assert spent == sorted(spent) and 2.0 < spent[0] < spent[-1] <= 6.0


def test_the_local_budget_grows_with_the_rounds() -> None:
    pytest.importorskip("dp_accounting")
    chosen = settings(privacy="local", local_epsilon=1.0)
    one, five = (privacy_report(make_strategy(chosen), chosen, rounds) for rounds in (1, 5))
    assert one is not None and five is not None
    assert 0.5 < one["epsilon"] <= 1.0 < five["epsilon"] < 5.0
    weak = settings(privacy="local", local_sensitivity=0.1)
    told = privacy_report(make_strategy(weak), weak, 1)
    assert told is not None and told["epsilon"] is None and "local-sensitivity" in told["note"]
    assert privacy_report(make_strategy(settings()), settings(), 5) is None


def test_settings_that_do_not_go_together_are_said() -> None:
    with pytest.raises(UserError, match="needs strategy fedavg or fedprox"):
        RunSettings.from_run_config({"privacy": "central-fixed", "strategy": "fedadam"})
    with pytest.raises(UserError, match="clipped-count-stddev"):
        make_strategy(settings(privacy="central-adaptive", noise_multiplier=1.0, clipped_count_stddev=0.5))
    with pytest.raises(UserError, match="max-epsilon"):
        make_strategy(settings(privacy="central-fixed", noise_multiplier=0.0, max_epsilon=1.0))


@pytest.mark.parametrize("name", ["none", "central-fixed", "central-adaptive", "local"])
def test_evaluations_are_averaged_whatever_the_privacy(name: str) -> None:
    strategy = make_strategy(settings(privacy=name))
    replies = []
    for message, accuracy in zip(ask(strategy), (0.2, 0.4), strict=False):
        metrics = MetricRecord({"num-examples": 10, "eval_loss": 1.0, "eval_accuracy": accuracy})
        replies.append(Message(RecordDict({"metrics": metrics}), reply_to=message))
    averaged = strategy.aggregate_evaluate(1, replies)
    assert averaged is not None and averaged["eval_accuracy"] == pytest.approx(0.3)
