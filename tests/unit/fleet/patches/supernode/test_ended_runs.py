"""A SuperNode learns that the run of its message is over."""

import threading
from typing import Any

from app.fleet.patches.supernode.ended_runs import ASK_EVERY_S, RunWatch


class _EndedError(BaseException):
    pass


def _watch(get_run: Any) -> tuple[RunWatch, list[float]]:
    now = [0.0]
    watch = RunWatch(_EndedError, lambda: now[0])
    watch.begin(7, get_run)
    return watch, now


def _ask(watch: RunWatch, now: list[float]) -> bool:
    """Let the time for a question come, and wait for its answer."""
    now[0] += ASK_EVERY_S
    watch.is_over()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(5)
    return watch.is_over()


def test_a_run_is_over_when_the_superlink_says_so_and_the_next_one_is_not() -> None:
    state = ["running"]

    def get_run(_: int) -> None:
        if state[0] == "ended":
            raise _EndedError

    watch, now = _watch(get_run)
    assert not _ask(watch, now)
    state[0] = "ended"
    assert not watch.is_over(), "it is not asked at each look"
    assert _ask(watch, now)
    watch.begin(8, get_run)
    assert not watch.is_over()


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
        assert not watch.is_over(), "the message goes on meanwhile"
    answer.set()
    assert asked == [7], "one question at a time"
