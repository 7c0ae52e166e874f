"""Requests that the SuperLink holds until there is something to say."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from app.fleet.patches.superlink import long_polls as longpoll


def test_a_message_counts_as_there_when_its_last_object_has_arrived() -> None:
    arrivals = longpoll.Arrivals()
    seen = arrivals.seen([7])
    arrivals.expect("message", receiver=7, objects=["a", "b"])
    assert arrivals.incomplete([7, 8]) == {7}
    arrivals.arrived("a")
    assert arrivals.incomplete([7]) == {7} and arrivals.seen([7]) == seen
    arrivals.arrived("b")
    assert arrivals.incomplete([7]) == set() and arrivals.seen([7]) != seen


def test_a_message_without_missing_objects_is_there_at_once() -> None:
    arrivals = longpoll.Arrivals()
    seen = arrivals.seen([1])
    arrivals.expect("message", 1, [])
    arrivals.wait(seen, timeout=0)
    assert arrivals.seen([1]) != seen and not arrivals.incomplete([1])


def test_a_held_request_is_answered_when_its_own_message_comes() -> None:
    arrivals = longpoll.Arrivals()
    box: list[str] = []
    answers: list[Any] = []
    holder = threading.Thread(
        target=lambda: answers.append(
            longpoll.hold(arrivals, [1], lambda: list(box), lambda r: not r, hold_s=30)
        )
    )
    holder.start()
    arrivals.signal(2)
    holder.join(0.2)
    assert holder.is_alive(), "another node's message is none of its business"
    box.append("message")
    arrivals.signal(1)
    holder.join(10)
    assert answers == [["message"]]


def test_what_comes_between_looking_and_waiting_is_not_missed() -> None:
    arrivals = longpoll.Arrivals()
    looks = []

    def answer() -> list[str]:
        looks.append(1)
        if len(looks) == 1:
            arrivals.signal(1)  # arrives after the look, before the wait
            return []
        return ["message"]

    started = time.monotonic()
    assert longpoll.hold(arrivals, [1], answer, lambda r: not r, hold_s=30) == ["message"]
    assert len(looks) == 2 and time.monotonic() - started < 15


def test_replies_that_come_together_are_handed_out_together() -> None:
    arrivals = longpoll.Arrivals()
    arrivals.gather([1, 2], timeout=30)  # nothing is there: the hold decides how long to wait
    arrivals.signal(1)
    gathering = threading.Thread(target=lambda: arrivals.gather([1, 2], timeout=30))
    gathering.start()
    gathering.join(0.2)
    assert gathering.is_alive(), "the other reply is given a moment"
    arrivals.signal(2)
    gathering.join(10)
    assert not gathering.is_alive(), "and nothing more is waited for"
    arrivals.gather([1, 2, 3], timeout=0.01)  # a reply that stays away costs no more than the moment


def test_an_empty_answer_comes_after_the_hold_time() -> None:
    looks = []
    longpoll.hold(longpoll.Arrivals(), [1], lambda: looks.append(1), lambda _: True, hold_s=0.0)
    assert len(looks) == 1


class _Context:
    active = True
    later: Any = None

    def is_active(self) -> bool:
        return self.active

    def answer_later(self, subscribe: Any, _hold_s: float) -> None:
        self.later = subscribe


def _servicer(answers: list[list[str]]) -> tuple[Any, Any, longpoll.Arrivals]:
    class Servicer:
        def PullMessages(self, request: Any, context: Any) -> Any:
            return SimpleNamespace(messages_list=answers.pop(0) if answers else [])

    class Flower(dict[str, Any]):
        def replace(self, name: str, value: Any) -> None:
            if name == f"{longpoll._SERVICER}.PullMessages":
                Servicer.PullMessages = value  # type: ignore[method-assign]

    stock = Flower({f"{longpoll._FLEET}:{name}": None for name in ("push_messages", "push_object")})
    stock[f"{longpoll._SERVICER}.PullMessages"] = Servicer.PullMessages
    arrivals = longpoll.Arrivals()
    longpoll._hold_fleet(arrivals, stock)  # type: ignore[arg-type]
    return Servicer(), SimpleNamespace(node=SimpleNamespace(node_id=1)), arrivals


def test_a_connection_that_is_gone_gets_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower counts a message as delivered when it is handed out, so a dead connection would swallow it."""
    answers = [["message"]]
    servicer, request, _ = _servicer(answers)
    gone = _Context()
    gone.active = False
    assert not servicer.PullMessages(request, gone).messages_list
    assert answers == [["message"]], "it is still there for the next connection"


def test_a_request_without_a_message_is_answered_later() -> None:
    servicer, request, arrivals = _servicer([[]])
    context, rung = _Context(), threading.Event()
    assert not servicer.PullMessages(request, context).messages_list
    context.later(rung.set)
    arrivals.signal(2)
    assert not rung.is_set(), "another node's message is none of its business"
    arrivals.signal(1)
    assert rung.is_set()


def test_what_comes_before_the_request_waits_wakes_it_at_once() -> None:
    servicer, request, arrivals = _servicer([[]])
    context, rung = _Context(), threading.Event()
    servicer.PullMessages(request, context)
    arrivals.signal(1)
    context.later(rung.set)
    assert rung.is_set()


def test_a_request_that_waits_no_more_is_forgotten() -> None:
    servicer, request, arrivals = _servicer([[]])
    context, rung = _Context(), threading.Event()
    servicer.PullMessages(request, context)
    context.later(rung.set)()
    arrivals.signal(1)
    assert not rung.is_set() and not arrivals._waiting


def test_a_request_with_a_message_is_not_held() -> None:
    servicer, request, _ = _servicer([["message"]])
    context = _Context()
    assert servicer.PullMessages(request, context).messages_list == ["message"]
    assert context.later is None


def test_a_message_whose_objects_never_come_keeps_its_receiver_from_no_other() -> None:
    now = 0.0
    arrivals = longpoll.Arrivals(lambda: now)
    arrivals.expect("message", 7, ["first", "second"])
    now += longpoll.ON_ITS_WAY_S
    arrivals.arrived("first")
    now += longpoll.ON_ITS_WAY_S
    assert arrivals.incomplete([7]) == {7}, "a part of it has just come"
    before = arrivals.seen([7])
    now += 1.0
    assert arrivals.incomplete([7]) == set()
    assert arrivals.seen([7]) != before, "whoever waits looks again"
    arrivals.arrived("second")
