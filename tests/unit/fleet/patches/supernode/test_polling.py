"""How long an idle SuperNode sleeps."""

import pytest

from app.fleet.patches.supernode import polling


@pytest.mark.parametrize(
    ("held", "since_message", "expected"),
    [(20.0, 60.0, 0.0), (0.0, 0.0, 0.05), (0.0, 10.0, 1.0), (0.0, 1000.0, 3.0)],
)
def test_an_idle_node_sleeps_a_tenth_of_what_it_has_waited(
    held: float, since_message: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(polling.time, "monotonic", lambda: now[0])
    pauses = polling.Pauses()
    now[0] += since_message - held
    pauses.asking()
    now[0] += held
    assert pauses.pause_s() == pytest.approx(expected)


def test_flowers_other_sleeps_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(polling.time, "sleep", slept.append)
    polling.Pauses().sleep(0.5)
    assert slept == [0.5]
