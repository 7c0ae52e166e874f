"""A SuperNode learns that the run of its message is over."""

import threading
from typing import Any

from app.fleet.patches.supernode.ended_runs import ASK_EVERY_S, BEFORE_S, MessageWatch


class _EndedError(BaseException):
    pass


def _watch(get_run: Any) -> tuple[MessageWatch, list[float]]:
    now = [0.0]
    watch = MessageWatch(_EndedError, lambda: now[0])
    watch.begin(7, get_run)
    return watch, now


def _ask(watch: MessageWatch, now: list[float]) -> str:
    """Let the time for a question come, and wait for its answer."""
    now[0] += ASK_EVERY_S
    watch.why_over()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(5)
    return watch.why_over()


def test_a_run_is_over_when_the_superlink_says_so_and_the_next_one_is_not() -> None:
    state = ["running"]

    def get_run(_: int) -> None:
        if state[0] == "ended":
            raise _EndedError

    watch, now = _watch(get_run)
    assert not _ask(watch, now)
    state[0] = "ended"
    assert not watch.why_over(), "it is not asked at each look"
    assert _ask(watch, now)
    watch.begin(8, get_run)
    assert not watch.why_over()


def test_a_superlink_that_does_not_answer_says_nothing_of_the_run() -> None:
    def fail(_: int) -> None:
        raise ConnectionError

    assert not _ask(*_watch(fail))

    answer, asked = threading.Event(), []

    def hang(run_id: int) -> None:
        asked.append(run_id)
        answer.wait(10)

    watch, now = _watch(hang)
    for _ in range(3):
        now[0] += ASK_EVERY_S
        assert not watch.why_over(), "the message goes on meanwhile"
    answer.set()
    assert asked == [7], "one question at a time"


def test_a_message_is_over_when_its_time_to_live_is_counted_from_when_it_came() -> None:
    watch, now = _watch(lambda _: None)
    now[0] = 1000.0  # when it was made, by a clock that is this client's or not
    watch.came(60.0)
    now[0] += 60.0 - BEFORE_S - 0.1
    assert not watch.why_over()
    now[0] += 0.2
    assert "time to live of 60 s" in watch.why_over()
    watch.came(60.0)
    assert not watch.why_over(), "the next message has its own"


def test_of_another_run_it_is_said_at_once_whether_it_has_ended() -> None:
    def get_run(run_id: int) -> None:
        if run_id == 3:
            raise _EndedError
        if run_id == 4:
            raise ConnectionError

    watch, _ = _watch(get_run)
    assert watch.has_ended(3)
    assert not watch.has_ended(4) and not watch.has_ended(7)
