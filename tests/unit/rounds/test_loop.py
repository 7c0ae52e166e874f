"""The rounds on a grid in this process: which events they emit, and what becomes of replies that are wrong or missing."""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict
from in_process import START, Answer, FakeGrid, identify, learn

from app.errors import RunStopped
from app.packing import arrays as packing
from app.rounds import events, phases
from app.rounds.loop import Rounds
from app.rounds.results import Summary
from app.rounds.state.run import RunState
from app.rounds.strategies import make_strategy
from app.settings import RunSettings


@pytest.fixture(autouse=True)
def _identity() -> None:
    identify()


class Run:
    """Three clients for two rounds, and what was emitted."""

    def __init__(
        self,
        answer: Answer = learn,
        *,
        nodes: int = 3,
        before: Callable[[FakeGrid], None] = lambda _: None,
        **settings: Any,
    ) -> None:
        counts = {"min_available_nodes": nodes, "min_train_nodes": nodes, "min_evaluate_nodes": 1}
        self.settings = RunSettings(**{"num_server_rounds": 2, "round_deadline": 0.2} | counts | settings)
        self.grid = FakeGrid(nodes, answer)
        before(self.grid)
        self.events: list[events.Event] = []
        self.saved: list[tuple[int, str]] = []
        state = RunState(0, packing.to_record(START), make_strategy(self.settings), Summary(run="run"))
        self.rounds = Rounds(
            grid=self.grid.as_grid(),
            settings=self.settings,
            state=state,
            evaluate=lambda arrays: (float(packing.from_record(arrays)["bias"].sum()), 0.75),
            emit=self.events.append,
            names=lambda: {101: "hospital-b"},
            after_round=lambda state: self.saved.append((state.round, self.events[-1].name())),
        )
        self.stopped = ""
        try:
            training = self.settings.task == "train"
            self.why = self.rounds.run() if training else self.rounds.evaluate_model()
        except RunStopped as error:
            self.stopped = str(error)

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def test_a_round_emits_its_events_in_order() -> None:
    run = Run()
    came, used = ["reply_received"] * 3, ["reply_accepted"] * 3
    phase = ["phase_started", *came, *used, "updates_compared", "phase_finished"]
    evaluation = ["phase_started", "reply_received", "reply_accepted", "phase_finished"]
    assert [event.name() for event in run.events] == [
        "clients_connected",
        *(phase + evaluation + ["round_finished"]) * 2,
    ]
    assert run.saved == [(1, "round_finished"), (2, "round_finished")], (
        "after the event, which the summary is made of"
    )
    assert run.rounds.state.round == 2
    last = run.events[-1]
    assert isinstance(last, events.RoundFinished)
    assert (last.round, last.rounds, last.trained, last.evaluated) == (2, 2, 3, 1)
    assert last.accuracy == 0.75 and last.client_accuracy == 0.5 and last.traffic is None
    assert last.train_loss == pytest.approx(
        sum(w * (2 - 0.02 * (i + 1)) for i, w in enumerate((10, 11, 12))) / 33
    )


def test_replies_are_averaged_in_the_order_of_their_partitions() -> None:
    run = Run()
    for number in (1, 2):
        accepted = [e for e in run.of(events.ReplyAccepted) if e.round == number and e.phase == "train"]
        assert [event.client.partition_id for event in accepted] == [0, 1, 2]
        assert [event.num_examples for event in accepted] == [10, 11, 12]
    assert [event.client.label for event in accepted] == ["partition 0", "hospital-b", "partition 2"]
    weights = np.array([10, 11, 12]) / 33
    step = float(sum(w * 0.01 * (i + 1) for i, w in enumerate(weights)))
    final = packing.from_record(run.rounds.state.arrays)
    assert final["bias"] == pytest.approx(np.full(3, 3 * step), rel=1e-5)
    assert final["bias"].dtype == np.float32


def test_each_update_is_measured_and_compared_with_the_others() -> None:
    run = Run()
    first = [e for e in run.of(events.ReplyAccepted) if e.round == 1 and e.phase == "train"]
    # Each of the nine numbers moves by 0.01, 0.02, 0.03, all in the same direction.
    assert [event.update_length for event in first] == pytest.approx([0.03, 0.06, 0.09], rel=1e-4)
    assert {e.update_length for e in run.of(events.ReplyAccepted) if e.phase == "evaluate"} == {None}
    compared = run.of(events.UpdatesCompared)[0]
    assert [client.label for client in compared.clients] == ["partition 0", "hospital-b", "partition 2"]
    assert compared.agreement == [1, 1, 1] and compared.pairs == [[], [1], [1, 1]]
    assert (compared.round, compared.numbers) == (1, 9)


@pytest.mark.parametrize("privacy", ["central-fixed", "central-adaptive", "local"])
def test_with_privacy_nothing_is_told_of_a_single_update(privacy: str) -> None:
    run = Run(privacy=privacy)
    accepted = run.of(events.ReplyAccepted)
    assert accepted and {event.update_length for event in accepted} == {None}
    assert not run.of(events.UpdatesCompared)


def _one_is(wrong: Answer) -> Answer:
    return lambda node, message: wrong(node, message) if node == 101 else learn(node, message)


def _not_finite(node: int, message: Message) -> Message:
    reply = learn(node, message)
    if message.metadata.message_type == "train":
        reply.content = packing.unpacked(reply.content)
        arrays = packing.from_record(reply.content.array_records["arrays"])
        arrays["bias"][:] = math.nan
        reply.content["arrays"] = packing.to_record(arrays)
    return reply


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (_not_finite, "NaN or infinity"),
        (lambda node, message: Message(Error(7, "no data"), reply_to=message), "error 7: no data"),
    ],
    ids=["NaN", "error"],
)
def test_a_reply_that_cannot_be_right_is_left_out_by_name(wrong: Answer, reason: str) -> None:
    run = Run(_one_is(wrong))
    rejected = [event for event in run.of(events.ReplyRejected) if event.phase == "train"]
    assert [event.client.label for event in rejected] == ["hospital-b", "hospital-b"]
    assert all(reason in event.reason for event in rejected)
    finished = [event for event in run.of(events.PhaseFinished) if event.phase == "train"]
    assert [(event.accepted, event.rejected, event.late) for event in finished] == [(2, 1, 0)] * 2
    assert np.isfinite(packing.from_record(run.rounds.state.arrays)["bias"]).all()


def test_a_client_that_does_not_reply_is_late_and_the_round_goes_on() -> None:
    run = Run(
        _one_is(lambda node, message: None), num_server_rounds=1, fraction_evaluate=0.0, min_evaluate_nodes=0
    )
    [late] = run.of(events.ReplyLate)
    assert late.client.label == "hospital-b" and "(round-deadline, grace)" in late.reason
    [finished] = [event for event in run.of(events.PhaseFinished) if event.phase == "train"]
    assert (finished.accepted, finished.late) == (2, 1)


def test_without_a_usable_reply_the_run_stops_and_the_model_stays_as_it_was() -> None:
    run = Run(lambda node, message: Message(Error(1, "broken"), reply_to=message), num_server_rounds=1)
    assert not run.of(events.RoundFinished) and run.rounds.state.round == 0
    assert "round 1: train has 0 usable replies of 2" in run.stopped and "round-retries" in run.stopped
    assert [(event.attempt, event.attempts) for event in run.of(events.PhaseRetried)] == [(1, 2), (2, 2)]
    after = packing.from_record(run.rounds.state.arrays)
    assert all(np.array_equal(after[name], array) for name, array in START.items())


def test_a_spent_privacy_budget_ends_the_run_after_the_rounds_it_paid_for() -> None:
    run = Run(privacy="central-fixed", noise_multiplier=1.0, max_epsilon=8.0, num_server_rounds=9)
    [spent] = run.of(events.PrivacyBudgetSpent)
    done = run.of(events.RoundFinished)
    assert 0 < len(done) < 9 and spent.round == len(done) + 1 == run.rounds.state.round + 1
    assert done[-1].privacy["epsilon"] <= 8.0


def test_a_sampled_round_asks_who_is_who_and_repeats_its_choice() -> None:
    chosen = []
    for _ in range(2):
        run = Run(nodes=6, fraction_train=0.5, min_train_nodes=3)
        assert run.grid.sent[:6] == [("query", 100 + number) for number in range(6)]
        started = [event for event in run.of(events.PhaseStarted) if event.phase == "train"]
        chosen.append([[client.partition_id for client in event.clients] for event in started])
    assert chosen[0] == chosen[1] and all(len(clients) == 3 for clients in chosen[0])


def test_without_evaluation_by_clients_the_server_evaluates_alone() -> None:
    run = Run(fraction_evaluate=0.0, min_evaluate_nodes=0)
    assert {kind for kind, _ in run.grid.sent} == {"train"}
    assert all(
        event.client_accuracy is None and event.evaluated == 0 for event in run.of(events.RoundFinished)
    )


def test_a_query_that_nobody_expects_is_no_metric() -> None:
    reply = learn(100, Message(RecordDict({"metrics": MetricRecord()}), 100, "query"))
    assert reply.content.metric_records["metrics"]["partition-id"] == 0


ALONE = {"fraction_evaluate": 0.0, "min_evaluate_nodes": 0}


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "LOOK_S", 0.05)
    monkeypatch.setattr(phases, "FIRST_NOTE_S", 0.05)
    monkeypatch.setattr(phases, "LONGEST_PAUSE_S", 0.05)


def test_a_late_reply_is_named_counted_and_never_used(quick_looks: None) -> None:
    slow: dict[str, Any] = {"grace": 0.1, "round_deadline": 30.0, "num_server_rounds": 3} | ALONE
    run = Run(before=lambda grid: grid.late.add(101), **slow)
    late = [(event.round, event.client.label) for event in run.of(events.ReplyLate)]
    assert late == [(1, "hospital-b"), (2, "hospital-b"), (3, "hospital-b")]
    assert not [event for event in run.of(events.ReplyAccepted) if event.client.node_id == 101]
    assert sum(event.arrived_late for event in run.of(events.PhaseFinished)) == 2
    without = Run(before=lambda grid: grid.nodes.remove(101), wait_for_clients=0.1, **slow)
    assert str(run.rounds.state.arrays) == str(without.rounds.state.arrays), "as if it had not been there"


def _goes(grid: FakeGrid, back_after_s: float | None) -> Answer:
    """Node 101 goes offline when it is asked to train, and may come back, without its message."""
    lost: list[int] = []

    def answer(node: int, message: Message) -> Message | None:
        if node == 101 and not lost:
            lost.append(node)
            grid.nodes.remove(101)
            if back_after_s is not None:
                threading.Timer(back_after_s, lambda: grid.nodes.append(101)).start()
            return None
        return learn(node, message)

    return answer


def test_a_client_that_is_lost_and_back_in_time_is_asked_again(quick_looks: None) -> None:
    def goes(grid: FakeGrid) -> None:
        grid.answer = _goes(grid, 0.3)

    run = Run(before=goes, min_replies=1.0, round_deadline=30.0, num_server_rounds=1, **ALONE)
    story = [e.name() for e in run.events if isinstance(e, events.ClientLost | events.ClientReturned)]
    assert story == ["client_lost", "client_returned"]
    assert run.grid.sent == [("train", 100), ("train", 101), ("train", 102), ("train", 101)]
    assert run.of(events.RoundFinished)[0].trained == 3


def test_nobody_waits_for_a_client_that_is_offline_when_enough_replied(quick_looks: None) -> None:
    def goes(grid: FakeGrid) -> None:
        grid.answer = _goes(grid, None)

    run = Run(before=goes, round_deadline=600.0, wait_for_clients=600.0, **ALONE)
    assert [event.trained for event in run.of(events.RoundFinished)] == [2, 2]
    [late] = run.of(events.ReplyLate)
    assert late.reason == "it is offline"
    asked = [sorted(client.node_id for client in event.clients) for event in run.of(events.PhaseStarted)]
    assert asked == [[100, 101, 102], [100, 102]]


def test_strict_stops_where_a_client_is_missing_and_names_it(quick_looks: None) -> None:
    silent = _one_is(lambda node, message: None)
    run = Run(silent, strict=True, round_retries=0, **ALONE)
    assert "train has 2 usable replies of 3" in run.stopped
    assert [event.client.label for event in run.of(events.ReplyLate)] == ["hospital-b"]
    assert not run.of(events.RoundFinished)


def test_a_client_that_failed_once_is_asked_again_and_usable_replies_stay() -> None:
    failed: list[int] = []

    def answer(node: int, message: Message) -> Message | None:
        if node != 100 and node not in failed:
            failed.append(node)
            return Message(Error(2, "out of luck"), reply_to=message)
        return learn(node, message)

    run = Run(answer, num_server_rounds=1, **ALONE)
    assert [(event.accepted, event.needed) for event in run.of(events.PhaseRetried)] == [(1, 2)]
    assert [node for _, node in run.grid.sent] == [100, 101, 102, 101, 102]
    assert run.of(events.RoundFinished)[0].trained == 3 and not run.stopped


def test_a_run_begins_with_those_who_are_there_if_they_are_enough(quick_looks: None) -> None:
    run = Run(before=lambda grid: grid.nodes.remove(101), wait_for_clients=0.2, **ALONE)
    [awaited, *_] = run.of(events.ClientsAwaited)
    assert (awaited.connected, awaited.wanted, awaited.missing) == (2, 3, ["hospital-b"])
    assert len(run.of(events.ClientsConnected)[0].clients) == 2 and run.rounds.state.round == 2
    for settings in ({"strict": True}, {"min_replies": 3}):
        run = Run(before=lambda grid: grid.nodes.remove(101), wait_for_clients=0.2, **settings, **ALONE)
        assert "2 of 3 clients are connected after 0.2 s" in run.stopped
        assert "missing: hospital-b" in run.stopped


def test_a_target_that_is_reached_ends_the_run() -> None:
    run = Run(target_accuracy=0.75)
    assert len(run.of(events.RoundFinished)) == 1 and "target-accuracy" in run.why
    assert run.of(events.RoundFinished)[0].best == {"round": 1, "metric": "accuracy", "value": 0.75}


def test_every_client_evaluates_a_model_and_nobody_trains() -> None:
    run = Run(task="evaluate", weights="m.safetensors", fraction_evaluate=1.0, min_evaluate_nodes=3)
    assert sorted(run.grid.sent) == [("evaluate", 100), ("evaluate", 101), ("evaluate", 102)]
    assert [(event.round, event.accuracy) for event in run.of(events.ReplyAccepted)] == [(0, 0.5)] * 3
    [evaluated] = run.of(events.ModelEvaluated)
    assert (evaluated.model, evaluated.accuracy, evaluated.evaluated) == ("m.safetensors", 0.75, 3)
    assert not run.saved


def test_a_client_that_claims_another_partition_than_before_is_left_out() -> None:
    def answer(node: int, message: Message) -> Message:
        reply = learn(node, message)
        second = message.content.config_records["config"]["server-round"] == 2
        if node == 102 and second and message.metadata.message_type == "train":
            reply.content.metric_records["metrics"]["partition-id"] = 0
        return reply

    run = Run(answer)
    [left_out] = run.of(events.ReplyRejected)
    assert (left_out.client.node_id, left_out.client.partition_id) == (102, 2)
    assert left_out.reason == "it claims partition 0, after 2 before"
    assert run.rounds.state.partition_of == {100: 0, 101: 1, 102: 2}
