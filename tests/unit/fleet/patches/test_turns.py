"""Which run's message a node gets next."""

import threading
from types import SimpleNamespace
from typing import Any

from app.fleet.patches.turns import REMEMBERED, in_turns


class State:
    """A SuperLink's messages: run and node, in the order in which they came."""

    def __init__(self, *messages: tuple[int, int]) -> None:
        self.lock = threading.RLock()
        self.message_ins_store: dict[int, Any] = {}
        for run, node in messages:
            self.add(run, node)

    def add(self, run: int, node: int) -> None:
        metadata = SimpleNamespace(run_id=run, dst_node_id=node, delivered_at="")
        self.message_ins_store[len(self.message_ins_store)] = SimpleNamespace(metadata=metadata)

    def stock(self, node_id: int, limit: int | None, *, run_id: int | None = None) -> list[Any]:
        for message in self.message_ins_store.values():
            told = message.metadata
            if told.dst_node_id == node_id and not told.delivered_at and run_id in (None, told.run_id):
                told.delivered_at = "now"
                return [message]
        return []


def _runs(state: State, node: int, get: Any) -> list[int]:
    found = []
    while messages := get(state, node, 1):
        found.append(messages[0].metadata.run_id)
    return found


def test_a_run_with_many_messages_lets_others_in_between() -> None:
    state = State(*[(1, 5)] * 4, *[(2, 5)] * 2, (1, 6), (3, 5))
    get = in_turns(State.stock)
    assert _runs(state, 5, get) == [1, 2, 3, 1, 2, 1, 1]
    assert _runs(state, 6, get) == [1]


def test_a_run_that_comes_back_waits_for_those_that_had_their_turn_before() -> None:
    state = State((1, 5), (1, 5), (2, 5))
    get = in_turns(State.stock)
    assert get(state, 5, 1)[0].metadata.run_id == 1
    assert get(state, 5, 1)[0].metadata.run_id == 2
    state.add(2, 5)
    assert _runs(state, 5, get) == [1, 2]


def test_ended_runs_are_forgotten() -> None:
    get = in_turns(State.stock)
    for run in range(10 * REMEMBERED):
        assert _runs(State((run, 5)), 5, get) == [run]
    (turns,) = [cell.cell_contents for cell in get.__closure__ or () if isinstance(cell.cell_contents, dict)]
    assert len(turns[5]) == REMEMBERED
