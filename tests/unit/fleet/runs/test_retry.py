"""Which runs are submitted again, how often, and which are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import DRAINED, UserError
from app.fleet.control import ConnectionLost
from app.fleet.runs import retry, submit
from app.fleet.runs.submit import Outcome, Submission

BOUQUETS = Submission(Path(), {}, resumes=True)
FINISHED, KILLED = Outcome(True, 1, 0), Outcome(False, 1, 1, cut_off=True)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which is waited for."""
    made: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", made.append)
    monkeypatch.setattr(submit, "wait_for_control_api", lambda *_: None)
    monkeypatch.setattr(submit, "wait_for_as_many", lambda *_: 2)
    return made


def answers(monkeypatch: pytest.MonkeyPatch, *results: Any) -> list[int]:
    """Have ``submit`` end so, one after the other; a text is a line of the run before it was killed."""
    asked: list[int] = []

    def answer(_submission: Submission, echo: Callable[[str], None], _begun: Callable[[], None]) -> Outcome:
        result = results[len(asked)]
        asked.append(1)
        if isinstance(result, str):
            echo(result)
            result = KILLED
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, Outcome)
        return result

    monkeypatch.setattr(submit, "submit", answer)
    return asked


def test_a_run_goes_on_whatever_part_of_the_server_died(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    answers(monkeypatch, KILLED, ConnectionLost("gone"), Outcome(False, 1, DRAINED), FINISHED)
    assert retry.submit_until_ended(BOUQUETS, lambda _: None) == FINISHED
    assert pauses == [2.0, 4.0, retry.DRAINED_PAUSE_S]


def test_attempts_without_a_round_are_bounded_and_the_cause_is_named(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    asked = answers(
        monkeypatch, *["round 3/9  accuracy 0.1"] * 7, *[ConnectionLost("the port is closed")] * 9
    )
    with pytest.raises(UserError, match="cut off 5 times before it finished a round: the port is closed"):
        retry.submit_until_ended(BOUQUETS, lambda _: None)
    assert len(asked) == 7 + 4, "a finished round begins the count anew"


@pytest.mark.parametrize("end", [FINISHED, Outcome(False, 1, 1), Outcome(False, 1, 2), Outcome(True, 1, 3)])
def test_what_ended_by_itself_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float], end: Outcome
) -> None:
    answers(monkeypatch, end)
    assert retry.submit_until_ended(BOUQUETS, lambda _: None) == end and not pauses


def test_an_app_without_checkpoints_is_begun_anew_and_not_without_end(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    lines: list[str] = []
    answers(monkeypatch, KILLED, ConnectionLost("gone"), FINISHED)
    assert retry.submit_until_ended(Submission(Path(), {}), lines.append) == FINISHED
    assert len(pauses) == 2 and "it begins anew" in lines[0]
    asked = answers(monkeypatch, *["train 3: 2 of 2 replies"] * 9)
    with pytest.raises(UserError, match="cut off 5 times"):
        retry.submit_until_ended(Submission(Path(), {}), lines.append)
    assert len(asked) == 5, "it would do the same rounds again and again"


def test_another_app_that_keeps_its_rounds_goes_on(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    lines: list[str] = []
    answers(monkeypatch, *["round 3/9  kept"] * 7, FINISHED)
    assert retry.submit_until_ended(Submission(Path(), {}), lines.append) == FINISHED
    assert "it goes on from its checkpoint" in lines[1]


def test_all_attempts_bear_one_name_of_their_own(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    """By it the app finds the run that an earlier attempt began, or ended just before its server was lost."""
    configs: list[dict[str, Any]] = []

    def answer(submission: Submission, *_: Any) -> Outcome:
        configs.append(dict(submission.run_config))
        return KILLED if len(configs) % 3 else FINISHED

    monkeypatch.setattr(submit, "submit", answer)
    for _ in range(2):
        retry.submit_until_ended(BOUQUETS, lambda _: None)
    names = [config["submission"] for config in configs]
    assert names[0] == names[1] == names[2] != names[3] == names[4] == names[5]
