"""Who took part is counted from the events and said in one sentence."""

from typing import Any

from app.rounds import events
from app.rounds.events import Client
from app.rounds.participation import Participation

CLIENTS = [Client(100 + number, number, f"site-{number}") for number in range(4)]


def _started(**settings: Any) -> events.RunStarted:
    settings = {"min-available-nodes": 4, "fraction-train": 1.0} | settings
    return events.RunStarted("1", "local", "digits", "", [1], [], settings, {})


def _round(told: Participation, asked: list[Client], served: list[Client], phase: str = "train") -> None:
    told.take(events.PhaseStarted(1, phase, asked))
    for client in served:
        told.take(events.ReplyAccepted(1, phase, client, 1, 0.0, 0.0, 0.0, 0, 0, "cpu"))


def _end(told: Participation) -> None:
    told.take(events.RoundFinished(1, 2, 1.0, 0.0, 0.0, None, None, 1, 1, None, None))


def _told(**settings: Any) -> Participation:
    told = Participation({}, 0)
    told.take(_started(**settings))
    told.take(events.ClientsConnected(CLIENTS))
    return told


def test_all_clients_in_every_round() -> None:
    told = _told()
    assert told.sentence() == "no round was finished"
    for _ in range(3):
        _round(told, CLIENTS, CLIENTS)
        _round(told, CLIENTS[:2], CLIENTS[:2], "evaluate")
        _end(told)
    assert told.is_complete and told.sentence() == "4 of 4 clients took part in every round"


def test_a_client_that_is_late_gone_or_not_there_has_missed_a_round() -> None:
    told = _told()
    _round(told, CLIENTS, CLIENTS[:3])  # late
    _end(told)
    _round(told, CLIENTS[:3], CLIENTS[:3])  # site-3 is gone
    _round(told, CLIENTS[:2], CLIENTS[:1], "evaluate")  # site-1 trained, and did not evaluate
    _end(told)
    assert not told.is_complete
    assert (
        told.sentence()
        == "2 of 4 clients took part in every round; site-3 missed 2 of 2; site-1 missed 1 of 2"
    )


def test_the_count_goes_on_after_a_restart() -> None:
    told = _told()
    _round(told, CLIENTS, CLIENTS[:3])
    _end(told)
    again = Participation(dict(told.missed), told.rounds)
    again.take(_started())
    again.take(events.ClientsConnected(CLIENTS))
    _round(again, CLIENTS, CLIENTS)
    _end(again)
    assert again.sentence() == "3 of 4 clients took part in every round; site-3 missed 1 of 2"


def test_a_client_that_never_came_is_counted() -> None:
    told = Participation({}, 0)
    told.take(_started())
    told.take(events.ClientsConnected(CLIENTS[:3]))
    _round(told, CLIENTS[:3], CLIENTS[:3])
    _end(told)
    assert not told.is_complete
    assert told.sentence() == "3 of 4 clients took part in every round; 1 never took part"


def test_a_client_without_a_name_is_told_by_its_partition_when_it_replies() -> None:
    told = Participation({}, 0)
    told.take(_started(**{"min-available-nodes": 2}))
    told.take(events.ClientsConnected([Client(1), Client(2)]))
    _round(told, [Client(1), Client(2)], [Client(1, 0)])
    _end(told)
    _round(told, [Client(1, 0), Client(3)], [Client(1, 0), Client(3, 1)])  # it restarted, as another node
    _end(told)
    assert told.sentence() == "1 of 2 clients took part in every round; partition 1 missed 1 of 2"


def test_with_a_fraction_only_those_who_were_asked_can_miss() -> None:
    told = _told(**{"fraction-train": 0.5})
    _round(told, CLIENTS[:2], CLIENTS[:2])
    _end(told)
    assert told.is_complete and told.sentence() == "4 of 4 clients took part whenever they were asked"
    _round(told, CLIENTS[2:], CLIENTS[2:3])
    _end(told)
    assert told.sentence() == "3 of 4 clients took part whenever they were asked; site-3 missed 1 of 2"


def test_the_sentence_stays_short() -> None:
    told = Participation({f"site-{number}": 1 + number for number in range(9)}, 9)
    assert told.sentence().endswith("site-4 missed 5 of 9; 4 more missed some")
