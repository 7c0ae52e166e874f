"""Central differential privacy: Flower's wrappers with equal weights, and the budget spent.

This module does what Flower 1.39 leaves to its user. The noise is calibrated to ``clipping_norm / clients``, which
holds only for an average with equal weights, so the server weighs all clients alike. The number of clients is the
number of replies of the round. Adaptive clipping follows Andrew et al. 2021 (arXiv:1905.03871, algorithm 1), and its
noise is scaled to the norm at which the updates were clipped. Flower shrinks the norm when too many updates are
clipped, and scales the noise to the norm of the next round.

The noise follows from a secret key of the run, the round and the replies. A run that goes on after a crash and gets the
same replies again so draws the same noise, and its model is the same bit for bit. Other replies get other noise, so that
no difference of two models of one round shows an update without noise.

Secure aggregation is not here: in Flower 1.39 SecAgg+ exists for the older ``client_fn`` interface only.
"""

import hashlib
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import (
    GaussianPrivacyEvent,
    Grid,
    NeighboringRelation,
    PrivacyAccountant,
    PrivacyConfig,
    SamplingMethod,
)
from flwr.serverapp.exception import PrivacyBudgetExhausted
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)
from flwr.supercore.differential_privacy import KEY_NORM_BIT, get_norm

from app.errors import UserError
from app.packing.arrays import NDArray, from_record
from app.settings import RunSettings

EQUAL_WEIGHT = "equal-weight"  # metric that the server gives every reply
POPULATION = 2**31 - 1  # without amplification by sampling it does not enter; late clients must not exceed it
Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


def _weighed(replies: Iterable[Message]) -> list[Message]:
    """The replies, each with the same weight in an average."""
    ready = list(replies)
    for reply in ready:
        if reply.has_content():
            for metrics in reply.content.metric_records.values():
                metrics[EQUAL_WEIGHT] = 1.0
    return ready


class _EqualWeights:
    """The common part of all four wrappers: equal weights, noise for the clients that replied, noise that nobody knows.

    ``noise_key`` is secret: who has it can take the noise away again.
    """

    num_sampled_clients: int
    noise_key: dict[str, NDArray]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the clients' evaluations with the same equal weights."""
        result: MetricRecord | None = super().aggregate_evaluate(server_round, _weighed(replies))  # type: ignore[misc]
        return result

    def _prepare(self, server_round: int, replies: Iterable[Message]) -> list[Message]:
        ready = _weighed(replies)
        self.num_sampled_clients = max(len(ready), 1)
        # Flower's noise comes from NumPy's global generator.
        np.random.seed(noise_seed(self.noise_key["key"].tobytes(), server_round, ready))
        return ready

    def _prepare_accounting(self, server_round: int, messages: Iterable[Message]) -> Iterable[Message]:
        ready = list(messages)
        self.num_sampled_clients = max(len(ready), 1)
        return super()._prepare_accounting(server_round, ready)  # type: ignore[misc, no-any-return]


def noise_seed(key: bytes, server_round: int, replies: Iterable[Message]) -> list[int]:
    """256 bits for NumPy's generator, which nobody can tell without ``key``; others for each round and for other replies."""
    digest = hashlib.blake2b(str(server_round).encode(), key=key, digest_size=32)
    for reply in replies:
        if reply.has_content():
            for record in reply.content.array_records.values():
                for name, array in from_record(record).items():
                    digest.update(f"{name} {array.dtype} {array.shape} ".encode())
                    digest.update(array.tobytes())
            for metrics in reply.content.metric_records.values():
                digest.update(repr(metrics.get(KEY_NORM_BIT)).encode())  # of clipping by the clients
    return [int(word) for word in np.frombuffer(digest.digest(), np.uint32)]


def _never_zero(replies: list[Message], current: ArrayRecord) -> None:
    """Flower divides by the norm of an update: one client that returns the model unchanged would end the run."""
    for reply in replies:
        for name, record in reply.content.array_records.items() if reply.has_content() else ():
            if get_norm([array.numpy() - current[key].numpy() for key, array in record.items()]) == 0:
                key, array = next(iter(record.items()))
                numbers = array.numpy()
                numbers.flat[0] += max(abs(float(numbers.flat[0])) * 1e-6, 1e-12)
                reply.content[name] = ArrayRecord({**record, key: Array(numbers)})


class ServerSideFixed(_EqualWeights, DifferentialPrivacyServerSideFixedClipping):
    """Clipping by the server at a fixed norm."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        """Clip, average with equal weights, add noise."""
        ready = self._prepare(server_round, replies)
        _never_zero(ready, self.current_arrays)
        return super().aggregate_train(server_round, ready)


class ClientSideFixed(_EqualWeights, DifferentialPrivacyClientSideFixedClipping):
    """Clipping by the clients at a fixed norm."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        """Average with equal weights, add noise."""
        return super().aggregate_train(server_round, self._prepare(server_round, replies))


class _Adaptive(_EqualWeights):
    """Andrew et al.'s rule: the norm rises while more updates are clipped than wanted, else it falls."""

    clipping_norm: float
    clip_norm_lr: float
    target_clipped_quantile: float
    accountant: PrivacyAccountant | None = None
    spent_multiplier = 0.0
    _next_norm: float

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the round. Raises PrivacyBudgetExhausted when it would exceed ``max-epsilon``."""
        accountant = self.accountant
        if (
            accountant is not None
            and accountant.config.max_epsilon is not None
            and accountant.would_exceed(self._event())
        ):
            raise PrivacyBudgetExhausted("The next private release would exceed max_epsilon")
        ready: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)  # type: ignore[misc]
        return ready

    def _event(self) -> GaussianPrivacyEvent:
        return GaussianPrivacyEvent(self.spent_multiplier, self.num_sampled_clients, POPULATION)

    def _geometric_update(self, clipped_fraction: float) -> None:
        missed = clipped_fraction - self.target_clipped_quantile
        self._next_norm = self.clipping_norm * math.exp(self.clip_norm_lr * missed)

    def _finish(self, result: Aggregate) -> Aggregate:
        """Change the norm, after the round's noise was drawn."""
        if result[0] is not None:
            self.clipping_norm = self._next_norm
            if self.accountant is not None:
                self.accountant.compose(self._event())
        return result


class ServerSideAdaptive(_Adaptive, DifferentialPrivacyServerSideAdaptiveClipping):
    """Clipping by the server at a norm that follows a quantile of the updates' norms."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        """Clip, average with equal weights, add noise, move the norm."""
        ready = self._prepare(server_round, replies)
        _never_zero(ready, self.current_arrays)
        self._next_norm = self.clipping_norm
        return self._finish(super().aggregate_train(server_round, ready))


class ClientSideAdaptive(_Adaptive, DifferentialPrivacyClientSideAdaptiveClipping):
    """Clipping by the clients at a norm that follows a quantile of the updates' norms."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        """Average with equal weights, add noise, move the norm."""
        self._next_norm = self.clipping_norm
        return self._finish(super().aggregate_train(server_round, self._prepare(server_round, replies)))


def make_private(strategy: FedAvg, settings: RunSettings, num_clients: int) -> Strategy:
    """Wrap ``strategy`` for ``settings.privacy``; ``none`` and ``local`` need nothing on the server.

    Raises:
        UserError: noise that adaptive clipping cannot share between updates and their count, or a limit
            on the budget where no accountant is installed.
    """
    if settings.privacy not in ("central-fixed", "central-adaptive"):
        return strategy
    strategy.weighted_by_key = EQUAL_WEIGHT
    sampled = max(int(num_clients * settings.fraction_train), settings.min_train_nodes, 1)
    accountant = make_accountant(settings)
    if settings.max_epsilon and accountant is None:
        raise UserError(
            "max-epsilon needs noise-multiplier above 0 and dp-accounting: pip install 'flwr[dp]'"
        )
    key = {"key": np.frombuffer(os.urandom(64), np.uint8)}
    if settings.privacy == "central-fixed":
        kind = ServerSideFixed if settings.clipping_side == "server" else ClientSideFixed
        fixed = kind(
            strategy, settings.noise_multiplier, settings.clipping_norm, sampled, accountant=accountant
        )
        fixed.noise_key = key
        return fixed
    noise = settings.noise_multiplier
    # Andrew et al. take clients / 20; with few clients that leaves no room for the updates' own noise.
    stddev = settings.clipped_count_stddev or max(sampled / 20, noise)
    if noise >= 2 * stddev > 0:
        raise UserError(
            f"clipped-count-stddev={stddev:g} must be more than half of noise-multiplier={noise:g}"
        )
    adaptive = ServerSideAdaptive if settings.clipping_side == "server" else ClientSideAdaptive
    wrapper = adaptive(
        strategy,
        noise,
        sampled,
        initial_clipping_norm=settings.clipping_norm,
        target_clipped_quantile=settings.target_clipped_quantile,
        clip_norm_lr=settings.clip_norm_lr,
        clipped_count_stddev=stddev,
    )
    # Together, count and updates cost what one Gaussian release with the given multiplier costs (theorem 1).
    wrapper.accountant, wrapper.spent_multiplier = accountant, noise
    wrapper.noise_key = key
    return wrapper


def make_accountant(settings: RunSettings) -> PrivacyAccountant | None:
    """Google's RDP accountant through Flower; None without noise or without the package dp-accounting."""
    if settings.noise_multiplier == 0:
        return None
    config = PrivacyConfig(
        target_delta=settings.privacy_delta,
        population_size=POPULATION,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.NO_AMPLIFICATION,
        max_epsilon=settings.max_epsilon or None,
    )
    from flwr.serverapp import RdpAccountant

    try:
        return RdpAccountant(config)
    except ImportError:
        return None


def privacy_report(strategy: Strategy, settings: RunSettings, rounds: int) -> dict[str, Any] | None:
    """What ``summary.json`` says of privacy after ``rounds`` rounds; None for ``privacy="none"``.

    ``epsilon`` is None where it cannot be computed, and ``note`` then says why. It covers the model, not
    the metrics that clients report, and one client's whole data as the unit.
    """
    if settings.privacy == "none":
        return None
    report: dict[str, Any] = {"mechanism": settings.privacy, "delta": settings.privacy_delta, "epsilon": None}
    if settings.privacy == "local":
        multiplier = math.sqrt(2 * math.log(1.25 / settings.privacy_delta)) / settings.local_epsilon
        accountant = make_accountant(settings.model_copy(update={"noise_multiplier": multiplier}))
        if accountant is not None and rounds:
            accountant.compose(GaussianPrivacyEvent(multiplier, 1, POPULATION), rounds)
        if settings.local_sensitivity and settings.local_sensitivity < 2 * settings.clipping_norm:
            accountant, report["note"] = (
                None,
                "local-sensitivity is below 2 * clipping-norm: no guarantee follows",
            )
    else:
        accountant = getattr(strategy, "accountant", None)
    if accountant is not None:
        spent = accountant.get_privacy_spent()
        report |= {
            "epsilon": spent.epsilon,
            "releases": spent.num_releases,
            "accountant": spent.accounting_method,
        }
    elif "note" not in report:
        report["note"] = "no noise" if settings.noise_multiplier == 0 else "dp-accounting is not installed"
    return report
