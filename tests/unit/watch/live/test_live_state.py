"""What the live view shows of a run, from its events."""

from datetime import UTC, datetime, timedelta
from typing import Any

from app.rounds import events
from app.rounds.events import Client
from app.watch.live.state import Doing, RunView, time_of

START = datetime(2026, 11, 30, 12, tzinfo=UTC)
ONE, TWO, THREE = (Client(number, number, f"site-{number}") for number in (1, 2, 3))
EVERYONE = [ONE, TWO, THREE]


def started(rounds: int = 5) -> events.RunStarted:
    return events.RunStarted("7", "local", "digits", "", [], [], {"num-server-rounds": rounds}, {})


def accepted(client: Client, accuracy: float | None = 0.5) -> events.ReplyAccepted:
    return events.ReplyAccepted(1, "train", client, 30, 1.5, accuracy, 2.0, 10, 20, "cpu")


def finished(number: int, accuracy: float = 0.5, seconds: float = 10.0, **more: Any) -> events.RoundFinished:
    return events.RoundFinished(number, 5, seconds, 1.0, accuracy, 1.1, None, 3, 0, None, None, **more)


def view(*told: events.Event, each: float = 1.0) -> RunView:
    run = RunView("r")
    for number, event in enumerate(told):
        run.take(event, START + timedelta(seconds=number * each))
    return run


def test_each_client_is_shown_with_what_it_does() -> None:
    run = view(
        started(),
        events.ClientsConnected(EVERYONE),
        events.PhaseStarted(1, "train", [ONE, TWO]),
        events.ReplyReceived(1, "train", ONE, 2.0),
        events.ClientLost(1, "train", TWO),
    )
    assert {name: client.doing for name, client in run.clients.items()} == {
        "site-1": Doing.DONE,
        "site-2": Doing.LOST,
        "site-3": Doing.WAITING,
    }
    assert (run.phase, run.replied, len(run.asked)) == ("train", 1, 2)
    run.take(events.ClientReturned(1, "train", TWO), START)
    assert run.clients["site-2"].doing is Doing.TRAINING
    run.take(events.ReplyRejected(1, "train", ONE, "NaN"), START)
    run.take(events.ReplyLate(1, "train", TWO, "no reply"), START)
    assert [run.clients[name].doing for name in ("site-1", "site-2")] == [Doing.LEFT_OUT, Doing.LATE]
    assert run.clients["site-1"].reason == "NaN" and run.clients["site-1"].failures == 1 and run.replied == 2


def test_a_client_whose_name_becomes_known_stays_one_client() -> None:
    run = view(
        events.PhaseStarted(1, "train", [Client(1)]),
        events.ReplyReceived(1, "train", Client(1, 4), 1.0),
        accepted(Client(1, 4, "site")),
    )
    assert list(run.clients) == ["site"] and run.replied == 1
    assert (run.clients["site"].examples, run.clients["site"].accuracy) == (30, 0.5)


def test_the_time_left_is_that_of_the_last_rounds_less_what_this_one_has_taken() -> None:
    run = view(started(), finished(1), finished(2, seconds=20.0))
    assert run.left_s(run.latest or START) == 45.0  # three rounds of 15 s
    assert run.left_s(START + timedelta(seconds=2 + 5)) == 40.0
    assert run.left_s(START + timedelta(hours=1)) == 30.0, "a round that takes longer leaves the others"
    assert view(started()).left_s(START) is None
    assert view(started(), finished(1), events.RunFinished("completed", 1, 10.0)).left_s(START) is None


def test_a_run_that_goes_on_forgets_what_does_not_count() -> None:
    run = view(
        started(), finished(1, 0.1), finished(2, 0.2), finished(3, 0.3), events.RunFinished("failed", 3, 9.0)
    )
    assert run.ended
    run.take(started(), START)
    run.take(events.RunResumed(1, "checkpoint/1", []), START)
    assert (run.ended, run.done, run.accuracies, run.seconds) == (False, 1, [0.1], [10.0])
    run.take(finished(2, 0.4), START)
    assert run.accuracies == [0.1, 0.4]


def test_transfer_the_best_round_and_the_end_are_told() -> None:
    run = view(
        events.ClientsAwaited(1, 3, ["site-2"]),
        events.PhaseFinished(1, "train", 3, 0, 0, 2.0, 100, 50),
        events.PhaseFinished(1, "evaluate", 3, 0, 0, 2.0, 100, 1),
        finished(1, best={"round": 1, "metric": "accuracy", "value": 0.5}),
        events.RunFinished("subset", 1, 9.0, reason="why", participation="2 of 3"),
    )
    assert run.waits_for == "1 of 3 clients connected; missing: site-2"
    assert (run.down, run.up, run.best) == (200, 51, (1, 0.5))
    assert (run.status, run.reason, run.participation) == ("subset", "why", "2 of 3")


def test_a_time_that_cannot_be_read_is_now() -> None:
    assert time_of("2026-11-30T12:00:00+00:00") == START
    assert abs((time_of(None) - datetime.now(UTC)).total_seconds()) < 60
