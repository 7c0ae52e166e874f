"""A phase's exchange: which clients are chosen, and what the SuperLink is told about their replies."""

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from app.rounds import phases as rounds_grid
from app.rounds.enough import quorum
from app.rounds.phases import Exchange, OrderedGrid


def test_the_choice_of_clients_depends_on_the_seed_alone() -> None:
    """Flower's heartbeats draw from the same generator as its strategies, whenever they come."""
    grid = OrderedGrid(cast(Any, SimpleNamespace(get_node_ids=lambda: [30, 10, 20, 40])))
    grid.partition_of = {30: 0, 40: 1, 10: 2, 20: 3}

    def chosen(draw: str, heartbeats: int) -> list[int]:
        grid.draw = draw
        for _ in range(heartbeats):
            random.uniform(0.7, 0.9)
        return random.sample(list(grid.get_node_ids()), 2)

    assert grid.get_node_ids() == [30, 40, 10, 20]
    assert chosen("42/1/train", 0) == chosen("42/1/train", 3)
    assert len({tuple(chosen(f"42/{number}/train", 0)) for number in range(20)}) > 3


class Phase:
    """Stands in for the SuperLink: each look brings the next of ``batches``."""

    def __init__(self, batches: list[list[int]], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches, self.size = [list(batch) for batch in batches], size
        self.events: list[Any] = []
        for name in ("_run_id", "_node_id", "_task_id"):
            monkeypatch.setattr(TaskIdentity, name, 1)
        monkeypatch.setattr(
            rounds_grid, "push", lambda _grid, messages: [f"m{i}" for i in range(len(messages))]
        )
        monkeypatch.setattr(rounds_grid, "collect", self._collect)
        monkeypatch.setattr(
            rounds_grid, "confirm", lambda _grid, replies: self.events.append(len(list(replies)))
        )

    def _collect(self, _grid: Any, _ids: list[str], _limit: int) -> list[tuple[Any, int]]:
        self.events.append("look")
        replies = []
        for number in self.batches.pop(0):
            metadata = SimpleNamespace(reply_to_message_id=f"m{number}", message_id=f"r{number}")
            replies.append(
                (
                    SimpleNamespace(metadata=metadata, has_content=lambda: False, has_error=lambda: False),
                    self.size,
                )
            )
        return replies

    def run(self) -> Exchange:
        exchange = Exchange(cast(Any, None))
        exchange.send(Message(RecordDict(), number, "train") for number in (1, 2, 3))
        exchange.wait(quorum(3, 30))
        return exchange


def test_replies_are_confirmed_together_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    phase = Phase([[1], [0, 2]], 1000, monkeypatch)
    assert sorted(phase.run().bytes_up) == [1, 2, 3]
    assert phase.events == ["look", "look", 3]


def test_large_replies_are_confirmed_before_the_superlink_keeps_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    phase = Phase([[0], [1], [2]], rounds_grid.LARGEST_UNCONFIRMED // 2 + 1, monkeypatch)
    phase.run()
    assert phase.events == ["look", "look", 2, "look", 1]
