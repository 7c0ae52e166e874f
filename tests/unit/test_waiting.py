"""Waiting costs neither time nor cores: requests are held until there is something to say."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from app.fleet import longpoll, model_cache, waiting


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

    def is_active(self) -> bool:
        return self.active


def _servicer(answers: list[list[str]]) -> tuple[Any, Any, longpoll.Arrivals]:
    class Servicer:
        def PullMessages(self, request: Any, context: Any) -> Any:
            return SimpleNamespace(messages_list=answers.pop(0) if answers else [])

    handler = SimpleNamespace(push_messages=None, push_object=None)
    arrivals = longpoll.Arrivals()
    longpoll._hold_fleet(arrivals, Servicer, handler)  # type: ignore[arg-type]
    return Servicer(), SimpleNamespace(node=SimpleNamespace(node_id=1)), arrivals


def test_a_connection_that_is_gone_gets_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower counts a message as delivered when it is handed out, so a dead connection would swallow it."""
    answers = [["message"]]
    servicer, request, _ = _servicer(answers)
    gone = _Context()
    gone.active = False
    assert not servicer.PullMessages(request, gone).messages_list
    assert answers == [["message"]], "it is still there for the next connection"


def test_a_node_that_dials_again_takes_over_from_its_old_request() -> None:
    answers: list[list[str]] = [[]]
    servicer, request, arrivals = _servicer(answers)
    got: list[Any] = []
    old = threading.Thread(target=lambda: got.append(servicer.PullMessages(request, _Context())))
    old.start()
    while answers:
        time.sleep(0.01)
    new = threading.Thread(target=lambda: got.append(servicer.PullMessages(request, _Context())))
    new.start()
    time.sleep(0.2)
    answers.append(["message"])
    arrivals.signal(1)
    old.join(10), new.join(10)
    assert sorted(list(response.messages_list) for response in got) == [[], ["message"]]


@pytest.mark.parametrize(
    ("held", "since_message", "expected"),
    [(20.0, 60.0, 0.0), (0.0, 0.0, 0.05), (0.0, 10.0, 1.0), (0.0, 1000.0, 3.0)],
)
def test_an_idle_node_sleeps_a_tenth_of_what_it_has_waited(
    held: float, since_message: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    pauses = waiting.Pauses()
    now[0] += since_message - held
    pauses.asking()
    now[0] += held
    assert pauses.pause_s() == pytest.approx(expected)


def test_flowers_other_sleeps_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(waiting.time, "sleep", slept.append)
    waiting.Pauses().sleep(0.5)
    assert slept == [0.5]


def test_a_model_is_fetched_once_and_a_new_one_replaces_it() -> None:
    cache = model_cache.ModelCache()
    fetched: list[str] = []

    def pull(_run: int, object_id: str) -> bytes:
        fetched.append(object_id)
        return object_id.encode() * (model_cache.WORTH_KEEPING if object_id.startswith("model") else 1)

    for objects in (
        ["model-1", "small"],
        ["model-1", "small"],
        ["small"],
        ["model-1"],
        ["model-2"],
        ["model-1"],
    ):
        cache.begin()
        for object_id in objects:
            assert cache.pulling(pull)(1, object_id) == pull(1, object_id) and fetched.pop() == object_id
        cache.end()
    assert fetched == ["model-1", "small", "small", "small", "model-2", "model-1"]


def test_the_names_that_are_replaced_in_flower_are_there() -> None:
    """Notices a Flower whose internals differ, before a federation runs slower in silence."""
    from flwr.client.grpc_rere_client import connection

    from app.fleet.warm import executor

    assert executor.unsupported() == ""
    assert longpoll.install()
    assert callable(connection.create_channel)
