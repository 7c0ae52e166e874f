"""The runs that a node has messages of take turns.

Flower hands a node its messages in the order in which they came. A run that sends a node fifty messages at once keeps all
other runs waiting for it, and a SuperNode works on one message at a time. Here the run whose turn is the longest ago is next.

Read in flwr 1.39.0: ``server/superlink/linkstate/in_memory_linkstate.py``.
"""

from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import Any

from app.fleet.patches.registry import Flower, Patch

REMEMBERED = 16  # runs of each node
_GET = "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.get_message_ins"


def in_turns(stock: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Flower's ``get_message_ins``, which gives a node a message of the run whose turn is the longest ago."""
    numbers = count(1)
    turns: dict[int, dict[int, int]] = defaultdict(dict)  # of each node: when each run had its turn

    def get_message_ins(
        self: Any, node_id: int, limit: int | None, *, run_id: int | None = None
    ) -> list[Any]:
        if run_id is not None or limit != 1:
            return stock(self, node_id, limit, run_id=run_id)
        with self.lock:
            runs = dict.fromkeys(
                message.metadata.run_id
                for message in self.message_ins_store.values()
                if message.metadata.dst_node_id == node_id and not message.metadata.delivered_at
            )
            mine = turns[node_id]
            for run in sorted(runs, key=lambda run: mine.get(run, 0)):
                if found := stock(self, node_id, 1, run_id=run):
                    mine.pop(run, None)
                    mine[run] = next(numbers)
                    for old in list(mine)[:-REMEMBERED]:
                        del mine[old]
                    return found
        return []

    return get_message_ins


def apply(flower: Flower, _context: Any) -> None:
    """Let the runs of this SuperLink take turns."""
    flower.replace(_GET, in_turns(flower[_GET]))


PATCH = Patch(
    name="turns",
    process="superlink",
    purpose="runs at the same time take turns on each client",
    without="a run that sends a client many messages at once keeps it from every other run",
    needs={_GET: "6547c8dcbc62"},
    after=("state",),
    apply=apply,
)
