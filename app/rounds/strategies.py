"""Flower's strategies by name, with the run's settings."""

from collections.abc import Callable
from typing import Any, cast

from flwr.app import MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.supercore.differential_privacy import KEY_NORM_BIT

from app.rounds.privacy import EQUAL_WEIGHT, make_private
from app.rounds.screening import NUM_EXAMPLES
from app.settings import RunSettings

# These tell who a client is and how it was treated. Their mean has no meaning.
NOT_AVERAGED = frozenset({NUM_EXAMPLES, "partition-id", "on-gpu", EQUAL_WEIGHT, KEY_NORM_BIT})


def make_strategy(settings: RunSettings, num_clients: int = 0) -> Strategy:
    """The strategy that ``settings`` name, inside a wrapper for central differential privacy if asked for.

    Weights and metrics are averaged by ``num-examples``; with central privacy all clients weigh the same.
    ``num_clients`` (0: ``min-available-nodes``) is what multikrum and privacy count with.

    Raises:
        UserError: settings that do not go together.
    """
    num_clients = num_clients or settings.min_available_nodes
    common: dict[str, Any] = {
        "fraction_train": settings.fraction_train,
        "fraction_evaluate": settings.fraction_evaluate,
        "min_train_nodes": max(settings.min_train_nodes, 1),
        "min_evaluate_nodes": max(settings.min_evaluate_nodes, 1),
        "min_available_nodes": max(settings.min_available_nodes, 1),
        "weighted_by_key": NUM_EXAMPLES,
        "train_metrics_aggr_fn": average_metrics,
        "evaluate_metrics_aggr_fn": average_metrics,
    }
    return make_private(_STRATEGIES[settings.strategy](settings, num_clients, common), settings, num_clients)


def average_metrics(replies: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Means weighted by ``num-examples``, of every number that a mean makes sense of.

    Replies without examples do not count; if none has any, all count the same.
    """
    records = [next(iter(reply.metric_records.values())) for reply in replies]
    weights = [float(cast(float, record.get(NUM_EXAMPLES, 0))) for record in records]
    if sum(weights) <= 0:
        weights = [1.0] * len(records)
    total = sum(weights)
    names = [name for name in records[0] if name not in NOT_AVERAGED] if records else []
    averaged = MetricRecord()
    for name in names:
        values = [record.get(name) for record in records]
        if all(isinstance(value, int | float) for value in values):
            numbers = cast(list[float], values)
            averaged[name] = sum(w * v for w, v in zip(weights, numbers, strict=True) if w) / total
    return averaged


def _adaptive(settings: RunSettings) -> dict[str, Any]:
    return {"eta": settings.eta, "eta_l": settings.learning_rate, "tau": settings.tau}


def _betas(settings: RunSettings) -> dict[str, Any]:
    return {"beta_1": settings.beta_1, "beta_2": settings.beta_2}


_STRATEGIES: dict[str, Callable[[RunSettings, int, dict[str, Any]], FedAvg]] = {
    "fedavg": lambda s, n, common: flower.FedAvg(**common),
    "fedprox": lambda s, n, common: flower.FedProx(**common, proximal_mu=s.proximal_mu),
    "fedavgm": lambda s, n, common: flower.FedAvgM(
        **common, server_learning_rate=s.server_learning_rate, server_momentum=s.server_momentum
    ),
    "fedadam": lambda s, n, common: flower.FedAdam(**common, **_adaptive(s), **_betas(s)),
    "fedyogi": lambda s, n, common: flower.FedYogi(**common, **_adaptive(s), **_betas(s)),
    "fedadagrad": lambda s, n, common: flower.FedAdagrad(**common, **_adaptive(s)),
    "fedmedian": lambda s, n, common: flower.FedMedian(**common),
    "fedtrimmedavg": lambda s, n, common: flower.FedTrimmedAvg(**common, beta=s.beta),
    "krum": lambda s, n, common: flower.Krum(**common, num_malicious_nodes=s.num_malicious_nodes),
    "multikrum": lambda s, n, common: flower.MultiKrum(
        **common,
        num_malicious_nodes=s.num_malicious_nodes,
        num_nodes_to_select=s.num_nodes_to_select or max(1, n - s.num_malicious_nodes),
    ),
    "bulyan": lambda s, n, common: flower.Bulyan(**common, num_malicious_nodes=s.num_malicious_nodes),
    "qfedavg": lambda s, n, common: flower.QFedAvg(s.client_learning_rate, q=s.q, **common),
}
