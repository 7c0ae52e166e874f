"""What any app's run tells about its clients."""

import pytest

from app.errors import FAILED, STATUS_LINE, SUBSET
from app.fleet.serverapp.program import MOST_LINES, NoClientReplied, Pauses, Tally

RAISED = "<class 'ValueError'>:<'no data'>"


def test_a_run_whose_clients_all_failed_fails_and_names_them() -> None:
    lines: list[str] = []
    tally = Tally(lines.append)
    tally.replied("one", RAISED)
    tally.replied("two", RAISED)
    with pytest.raises(NoClientReplied, match=r"their/app .*: one, two; ValueError: no data"):
        tally.conclude("their/app")
    assert lines[:2] == ["one failed: ValueError: no data", "two failed: ValueError: no data"]
    assert f"{STATUS_LINE}{FAILED}" in lines and lines[-1].startswith("error: ")


def test_a_run_with_a_failing_client_is_one_on_a_subset() -> None:
    lines: list[str] = []
    tally = Tally(lines.append)
    for failure in (None, RAISED, None):
        tally.replied("one", failure)
    tally.conclude("their/app")
    assert "one: 1 of 3 replies were errors: ValueError: no data" in lines
    assert lines[-1] == f"{STATUS_LINE}{SUBSET}"


def test_a_run_without_failures_says_nothing() -> None:
    lines: list[str] = []
    tally = Tally(lines.append)
    tally.replied("one", None)
    tally.conclude("their/app")
    assert lines == []


def test_a_reason_is_said_once_and_not_without_end() -> None:
    lines: list[str] = []
    tally = Tally(lines.append)
    for _ in range(3):
        tally.replied("one", "lost")
    assert lines == ["one failed: lost"]
    for number in range(100):
        tally.replied("one", f"lost {number}")
    assert len(lines) == MOST_LINES


def test_an_app_that_waits_for_clients_is_told_once() -> None:
    lines: list[str] = []
    times = [0.0, 10.0, 20.0]
    tally = Tally(lines.append, lambda: times.pop(0))
    for _ in range(4):
        tally.looked(2)
    assert lines == ["the app waits for more clients than the 2 that are connected"]


def test_an_app_that_has_sent_messages_does_not_wait() -> None:
    lines: list[str] = []
    times = [0.0, 100.0]
    tally = Tally(lines.append, lambda: times.pop(0))
    tally.looked(2)
    tally.sent()
    tally.looked(2)
    assert lines == []


def test_the_grid_sleeps_only_where_its_question_was_answered_at_once_with_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    pauses = Pauses()
    pauses.sleep(3)
    pauses.at_once = True
    pauses.sleep(3)
    pauses.sleep(1)
    assert slept == [3, 1]
