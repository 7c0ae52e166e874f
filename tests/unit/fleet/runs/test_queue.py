"""The order of the runs that wait."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import UserError
from app.fleet.control import Connection
from app.fleet.runs import queue


def _run(number: int, state: str, since: str) -> Any:
    return SimpleNamespace(
        run_id=number, fab_id="a/b", status=SimpleNamespace(status=state), pending_at=since
    )


RUNS = [
    _run(4, "pending", "2026-01-04"), _run(1, "finished", "2026-01-01"), _run(3, "pending", "2026-01-03"),
    _run(2, "running", "2026-01-02"), _run(5, "starting", "2026-01-05"),
]  # fmt: skip


def test_the_runs_that_wait_have_places_in_the_order_of_their_submission() -> None:
    found = [(entry.run, entry.state, entry.place) for entry in queue.entries(RUNS)]
    assert found == [("2", "running", 0), ("5", "starting", 0), ("3", "pending", 1), ("4", "pending", 2)]


@pytest.mark.parametrize(
    ("run", "words"), [("2", "run 2 has begun and is running"), ("1", "there is no run '1'")]
)
def test_only_a_run_that_waits_is_cancelled(run: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[int] = []
    client = SimpleNamespace(
        ListRuns=lambda _: SimpleNamespace(run_dict={run.run_id: run for run in RUNS}),
        StopRun=lambda request: stopped.append(request.run_id),
    )

    @contextmanager
    def control(_: Connection) -> Any:
        yield client

    monkeypatch.setattr(queue, "control", control)
    with pytest.raises(UserError, match=words):
        queue.cancel(Connection(), run)
    assert not stopped
    queue.cancel(Connection(), "3")
    assert stopped == [3]


def test_a_run_that_waits_is_told_its_place_when_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [0.0], list[str]()
    monkeypatch.setattr(queue.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(queue.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def runs(_: Any) -> Any:
        waiting = [_run(3, "pending", "3")] if now[0] < 10 else []
        state = "pending" if now[0] < 20 else "running"
        return SimpleNamespace(run_dict={run.run_id: run for run in [*waiting, _run(4, state, "4")]})

    queue.wait(SimpleNamespace(ListRuns=runs), 4, lines.append)  # type: ignore[arg-type]
    assert [line.partition("at ")[2] for line in lines] == [
        "place 2 (`bouquet queue`)",
        "place 1 (`bouquet queue`)",
    ]
    assert now[0] >= 20
