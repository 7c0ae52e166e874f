"""What a report knows of a run comes from its events, and from whatever a run has left of them."""

from pathlib import Path

from app.watch.report.course import states
from app.watch.report.gather import Run, of_records

from .conftest import Told, client

A, B, C = client(0, "hospital-a"), client(1, "hospital-b"), client(2)


def gathered(told: Told) -> Run:
    return of_records(Path("a-run"), told.records)


def test_each_client_has_one_name_also_where_its_partition_was_not_known_at_first() -> None:
    told = Told([{"node_id": 1002, "partition_id": None, "name": ""}, B, A]).start()
    told.clients = [A, B, C]
    run = gathered(told.round(1).end())
    assert run.clients == {"hospital-a": 0, "hospital-b": 1, "partition 2": 2}
    assert [each.accuracy for each in run.rounds] == [0.1] and run.status == "completed"
    assert len(run.of_phase(1, "train")) == 3 and run.unreadable == 0


def test_what_became_of_each_client_in_each_round() -> None:
    told = Told([A, B, C], num_server_rounds=4).start().round(1)
    told.ask(2).reply(2, A).reply(2, C, seconds=9.0)
    told.tell("client_lost", round=2, phase="train", client=B)
    told.tell("reply_late", round=2, phase="train", client=B, reason="it is offline").finish(2)
    told.ask(3).reply(3, A).tell("client_lost", round=3, phase="train", client=B)
    told.tell("client_returned", round=3, phase="train", client=B).reply(3, B)
    told.tell("reply_rejected", round=3, phase="train", client=C, reason="NaN").finish(3)
    told.clients = [A]
    told.round(4).end("subset")
    run = gathered(told)
    assert states(run) == {
        "hospital-a": ["good", "good", "good", "good"],
        "hospital-b": ["good", "lost", "returned", "absent"],
        "partition 2": ["good", "slow", "rejected", "absent"],
    }


def test_a_client_that_was_not_asked_in_a_fraction_of_all_is_not_absent() -> None:
    told = Told([A, B], fraction_train=0.5).start()
    told.clients = [A]
    assert states(gathered(told.round(1)))["hospital-b"] == ["idle"]


def test_a_diverged_loss_is_unknown_and_a_run_without_an_end_is_running() -> None:
    run = gathered(Told([A]).start().round(1, loss=None))
    assert run.rounds[0].loss is None and run.status == "running" and not run.finished


def test_a_run_that_went_on_ends_as_it_ended_last() -> None:
    told = Told([A]).start().round(1).end("interrupted").start()
    run = gathered(told.tell("run_resumed", round=1, checkpoint="1", damaged=["3"]).round(2).end())
    assert run.status == "completed" and [each.number for each in run.rounds] == [1, 2]
    assert [fault.reason for fault in run.faults] == ["went on after round 1; damaged checkpoints: 3"]


def test_what_was_cut_off_and_run_again_is_shown_and_does_not_count() -> None:
    told = Told([A, B]).start().round(1).ask(2).reply(2, A)
    told.tell("client_lost", round=2, phase="train", client=B).end("interrupted").start()
    run = gathered(told.tell("run_resumed", round=1, checkpoint="1", damaged=[]).round(2).end())
    assert [(reply.round, reply.client) for reply in run.undone] == [(2, "hospital-a")]
    assert [(fault.kind, fault.counts) for fault in run.faults] == [
        ("client_lost", False),
        ("run_resumed", True),
    ]
    assert len(run.of_phase(2, "train")) == 2 and states(run)["hospital-b"] == ["good", "good"]


def test_a_record_that_lacks_something_is_counted_and_left_out() -> None:
    told = Told([A]).start().round(1)
    told.tell("reply_accepted", round=2).tell("round_finished", round="two", seconds=None).tell(
        "of_tomorrow", x=1
    )
    told.records.append({"event": "round_finished"})
    run = gathered(told)
    assert run.unreadable == 3 and len(run.rounds) == 1


def test_nothing_comes_of_nothing() -> None:
    run = of_records(Path("a-run"), [])
    assert (run.clients, run.rounds, run.status, run.is_own, states(run)) == ({}, [], "running", False, {})
