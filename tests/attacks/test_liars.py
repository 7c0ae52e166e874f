"""A member that lies about its data or sends absurd numbers harms its own reply, whatever strategy and privacy."""

import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from flwr.app import Message, MetricRecord
from in_process import START, FakeGrid, identify, learn, little_to_collect

from app.learning.client import EVALUATE_METRICS, TRAIN_METRICS
from app.packing import arrays as packing
from app.rounds import events
from app.rounds.loop import Rounds
from app.rounds.results import Summary
from app.rounds.screening import NUM_EXAMPLES, Known
from app.rounds.state.run import RunState
from app.rounds.strategies import make_strategy
from app.settings import RunSettings, Strategy

LIAR = 100  # the node that replies first
Lie = Callable[[dict[str, np.ndarray], MetricRecord], None]


_little_to_collect = pytest.fixture(autouse=True, scope="module")(little_to_collect)


@pytest.fixture(autouse=True)
def _identity() -> None:
    identify()


class Run:
    """Rounds with one liar among so many clients, and what was emitted."""

    def __init__(
        self,
        lie: Lie,
        *,
        nodes: int = 3,
        begin: int = 0,
        phase: str = "train",
        known: dict[str, Any] | None = None,
        **keys: Any,
    ) -> None:
        counts = {"min_available_nodes": nodes, "min_train_nodes": nodes, "min_evaluate_nodes": nodes}
        self.settings = RunSettings(**{"num_server_rounds": 2, "fraction_evaluate": 1.0} | counts | keys)
        self.events: list[events.Event] = []

        def answer(node: int, message: Message) -> Message:
            return self._answer(node, message, lie if message.metadata.message_type == phase else None)

        def names(phase: str) -> Known:
            own = {"train": TRAIN_METRICS, "evaluate": EVALUATE_METRICS}[phase]
            return Known(frozenset({NUM_EXAMPLES, *own}), **(known or {}))

        state = RunState(begin, packing.to_record(START), make_strategy(self.settings), Summary(run="run"))
        self.rounds = Rounds(
            grid=FakeGrid(nodes, answer).as_grid(),
            settings=self.settings,
            state=state,
            evaluate=lambda arrays: (1.0, 0.5),
            emit=self.events.append,
            known=names,
        )
        self.rounds.run()

    def _answer(self, node: int, message: Message, lie: Lie | None) -> Message:
        """An honest reply, with the metrics of the app's own clients; from the liar a changed one."""
        reply = learn(node, message)
        metrics = reply.content.metric_records["metrics"]
        prefix = "train" if message.metadata.message_type == "train" else "eval"
        metrics.update({f"{prefix}_s": 1.0, "on-gpu": 0})
        if (
            prefix == "train"
            and self.settings.privacy == "central-adaptive"
            and self.settings.clipping_side == "client"
        ):
            metrics["norm_bit"] = 1
        if lie is not None and node == LIAR:
            arrays = {}
            if prefix == "train":
                reply.content = packing.unpacked(reply.content)
                arrays = packing.from_record(reply.content.array_records["arrays"])
            lie(arrays, metrics)
            if prefix == "train":
                reply.content["arrays"] = packing.to_record(arrays)
        return reply

    @property
    def model(self) -> dict[str, np.ndarray]:
        return packing.from_record(self.rounds.state.arrays)

    def of(self, kind: type[events.Event], phase: str = "train") -> list[Any]:
        return [
            event
            for event in self.events
            if isinstance(event, kind) and getattr(event, "phase", phase) == phase
        ]

    def is_near(self, honest: "Run") -> bool:
        """Whether no number of the model is further from an honest run's than honest clients are from each other."""
        return all(np.abs(self.model[name] - array).max() < 0.2 for name, array in honest.model.items())


def nothing(_arrays: dict[str, np.ndarray], _metrics: MetricRecord) -> None:
    """No lie."""


def far_and_heavy(arrays: dict[str, np.ndarray], metrics: MetricRecord) -> None:
    metrics[NUM_EXAMPLES] = 10**9
    arrays["weight"] += 1000


def largest_numbers(arrays: dict[str, np.ndarray], _metrics: MetricRecord) -> None:
    for array in arrays.values():
        array[...] = 3e38


def largest_of_both_signs(arrays: dict[str, np.ndarray], metrics: MetricRecord) -> None:
    metrics[NUM_EXAMPLES] = 10**9
    arrays["weight"][0], arrays["weight"][1] = 3e38, -3e38


LIES = (far_and_heavy, largest_numbers, largest_of_both_signs)
MODES: list[dict[str, Any]] = [{"strategy": name} for name in get_args(Strategy)]
MODES += [
    {"privacy": privacy, "clipping_side": side, "noise_multiplier": 0.0, "clipped_count_stddev": 1e-9}
    for privacy in ("central-fixed", "central-adaptive")
    for side in ("server", "client")
]
MODES += [
    {"privacy": "local"},
    {"fraction_evaluate": 0.0, "min_evaluate_nodes": 0, "update_dtype": "float32"},
]


@pytest.mark.parametrize("nodes", [2, 3])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(map(str, mode.values())))
def test_one_liar_does_not_decide_the_model(mode: dict[str, Any], nodes: int) -> None:
    honest = Run(nothing, nodes=nodes, **mode)
    assert not honest.of(events.ReplyRejected) and not honest.of(events.ReplyLimited)
    for lie in LIES:
        run = Run(lie, nodes=nodes, **mode)
        assert run.is_near(honest), lie.__name__
        noted = [
            event.client.node_id
            for kind in (events.ReplyRejected, events.ReplyLimited)
            for event in run.of(kind)
        ]
        assert set(noted) == {LIAR}, lie.__name__


def test_an_absurd_loss_does_not_decide_the_model_of_qfedavg() -> None:
    def absurd_loss(arrays: dict[str, np.ndarray], metrics: MetricRecord) -> None:
        metrics["train_loss"] = 1e299
        for array in arrays.values():
            array += 1

    run = Run(absurd_loss, nodes=10, strategy="qfedavg", q=0.1, num_server_rounds=1)
    [limited] = run.of(events.ReplyLimited)
    assert limited.client.node_id == LIAR and "it counts as 19" in limited.reason
    assert run.model["bias"].max() < 0.3, "it weighs 10 ** q times as much as each other client"


@pytest.mark.parametrize("nodes", [2, 3, 10])
def test_weight_is_cut_to_ten_times_the_median_and_this_is_said(nodes: int) -> None:
    def heavy(_arrays: dict[str, np.ndarray], metrics: MetricRecord) -> None:
        metrics[NUM_EXAMPLES] = 10**9

    run = Run(heavy, nodes=nodes, num_server_rounds=1)
    [limited] = run.of(events.ReplyLimited)
    counts = [event.num_examples for event in run.of(events.ReplyAccepted)]
    middle = sorted([10**9, *range(11, 10 + nodes)])[(nodes - 1) // 2]
    assert limited.client.node_id == LIAR
    assert (
        limited.reason == f"num-examples is {10**9}, and the median is {middle}: it counts as {10 * middle}"
    )
    assert counts == [10 * middle, *range(11, 10 + nodes)]


def test_a_client_with_thirty_times_the_examples_and_the_steps_of_the_others_takes_part() -> None:
    def large_and_honest(arrays: dict[str, np.ndarray], metrics: MetricRecord) -> None:
        metrics[NUM_EXAMPLES] = 30 * 11
        for name, array in arrays.items():
            array += 30 * (array - START[name])

    run = Run(large_and_honest, num_server_rounds=1)
    assert len(run.of(events.ReplyAccepted)) == 3 and not run.of(events.ReplyRejected)
    assert [event.client.node_id for event in run.of(events.ReplyLimited)] == [LIAR]
    for known in ({"enrolled": {LIAR: 1000}}, {"largest": 1000}):
        run = Run(large_and_honest, num_server_rounds=1, known=known)
        assert [event.num_examples for event in run.of(events.ReplyAccepted)] == [330, 11, 12]
        assert not run.of(events.ReplyLimited)


def test_more_examples_than_a_client_was_enrolled_with_cost_it_its_reply() -> None:
    run = Run(nothing, known={"enrolled": {LIAR: 9}})
    assert {event.reason for event in run.of(events.ReplyRejected)} == {
        "num-examples is 10, more than the 9 that this client can have"
    }
    assert len(run.of(events.ReplyAccepted, "evaluate")) == 4, "both phases have the same bound"


def test_one_liar_does_not_decide_the_evaluation() -> None:
    def perfect(_arrays: dict[str, np.ndarray], metrics: MetricRecord) -> None:
        metrics.update({NUM_EXAMPLES: 10**9, "eval_accuracy": 1.0})

    run = Run(perfect, nodes=10, phase="evaluate")
    assert len(run.of(events.ReplyLimited, "evaluate")) == 2
    assert all(0.5 < event.client_accuracy < 0.8 for event in run.of(events.RoundFinished))


@pytest.mark.parametrize("phase", ["train", "evaluate"])
@pytest.mark.parametrize(
    "extra", [{"surplus": 1.0}, {"equal-weight": 1e9}, {"train_loss": [1.0, 2.0]}, {"on-gpu": []}]
)
def test_of_two_clients_the_one_with_other_metrics_goes_though_it_replies_first(
    phase: str, extra: Any
) -> None:
    def odd(_arrays: dict[str, np.ndarray], metrics: MetricRecord) -> None:
        metrics.update(extra)

    run = Run(odd, nodes=2, phase=phase)
    assert [event.client.node_id for event in run.of(events.ReplyRejected, phase)] == [LIAR, LIAR]
    assert [event.client.node_id for event in run.of(events.ReplyAccepted, phase)] == [LIAR + 1, LIAR + 1]


@pytest.mark.parametrize(
    "numbers",
    [
        {NUM_EXAMPLES: -1},
        {NUM_EXAMPLES: 0},
        {NUM_EXAMPLES: 0.5},
        {NUM_EXAMPLES: math.nan},
        {NUM_EXAMPLES: math.inf},
        {NUM_EXAMPLES: 1e308},
        {NUM_EXAMPLES: 2**64 - 1},
        {NUM_EXAMPLES: [10]},
        {"train_loss": math.nan},
        {"train_loss": -1.0},
        {"train_loss": 1.7e308},
        {"train_loss": [1.7e308] * 3},
        {"train_accuracy": 1.0001},
        {"partition-id": math.inf},
    ],
    ids=str,
)
@pytest.mark.parametrize("strategy", ["fedavg", "qfedavg"])
def test_numbers_that_cannot_be_right_cost_the_client_its_reply(numbers: Any, strategy: str) -> None:
    def wrong(_arrays: dict[str, np.ndarray], metrics: MetricRecord) -> None:
        metrics.update(numbers)

    run = Run(wrong, strategy=strategy)
    assert [event.client.node_id for event in run.of(events.ReplyRejected)] == [LIAR, LIAR]
    assert run.rounds.state.round == 2


@pytest.mark.parametrize("bit", [10**6, -1, 0.5, 1e300, [1]])
def test_the_bit_of_adaptive_clipping_is_a_bit(bit: Any) -> None:
    def wrong(_arrays: dict[str, np.ndarray], metrics: MetricRecord) -> None:
        metrics["norm_bit"] = bit

    keys = {"privacy": "central-adaptive", "clipping_side": "client", "noise_multiplier": 0.0}
    run = Run(wrong, clipped_count_stddev=1e-9, **keys)
    assert [event.client.node_id for event in run.of(events.ReplyRejected)] == [LIAR, LIAR]
    assert run.rounds.state.round == 2


def test_a_personal_layer_that_comes_back_costs_the_client_its_reply() -> None:
    def more(arrays: dict[str, np.ndarray], _metrics: MetricRecord) -> None:
        arrays["fc3.weight"] = np.zeros(3, np.float32)

    run = Run(more, personal_layers="fc3")
    assert all("has unknown fc3.weight" in event.reason for event in run.of(events.ReplyRejected))
    assert len(run.of(events.ReplyAccepted)) == 4 and run.model.keys() == START.keys()


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_an_average_that_is_not_finite_is_refused_and_leaves_nothing_behind(strategy: str) -> None:
    """A client alone has no median beside it, so the largest numbers pass, and the server's own step overflows."""

    turns = iter([largest_numbers, nothing])
    keys = {"nodes": 1, "strategy": strategy, "server_learning_rate": 2.0, "eta": 1e30, "tau": 1e-30}
    keys |= {"beta_1": 0.5, "beta_2": 0.5}
    run = Run(lambda arrays, metrics: next(turns)(arrays, metrics), **keys)
    [refused] = run.of(events.AverageRefused)
    assert (refused.round, refused.reason) == (1, "the average is not finite")
    without = Run(nothing, begin=1, **keys)  # as if the first round had not been
    assert all(
        np.array_equal(run.model[name], array, equal_nan=True) for name, array in without.model.items()
    )
