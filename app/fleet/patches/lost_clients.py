"""A client that has gone is noticed soon, and a message that it has lost is told to the ServerApp at once.

Flower forgets a message that a client took and lost: one whose answer went into a dead connection, whose model did not
come through, or whose process was killed and came back. The ServerApp then waits for it until its time-out. But a
SuperNode works on one message at a time. So a node that asks for work has nothing in hand, and what it was handed before
is answered or lost. A message that it never had as a whole is handed out once more. Of one that it had, the ServerApp
learns that the node was unavailable, and can send it again.

A node counts as offline 1.2 of its own heartbeat intervals after the last heartbeat, so that a client of Bouquet decides
itself how soon (``supernode/reconnect.py``). A ServerApp that asks who is online sees that at once. The error in place of a
reply comes 60 s after the last heartbeat, as in stock Flower: a client that was cut off for less delivers its reply.

Read in flwr 1.39.0: ``server/superlink/fleet/message_handler``, ``server/superlink/linkstate``.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from app.fleet.patches.registry import Flower, Patch

PATIENCE = 1.2  # stock: 2. A stock client beats every 22.5 s or more often, and names an interval of 30 s
SHORTEST_INTERVAL_S = 1
REPLY_GRACE_S = 48.0
_HANDLER = "flwr.server.superlink.fleet.message_handler.message_handler"
_STATE = "flwr.server.superlink.linkstate.in_memory_linkstate"
_CHECK = f"{_STATE}:check_node_availability_for_in_message"


class InHand:
    """What each node was handed last, and which messages are lost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[int, str] = {}  # message id by node id
        self._handed_twice: set[str] = set()
        self.lost: set[str] = set()

    def take(self, node: int, message_id: str) -> None:
        """A message was handed to ``node``."""
        with self._lock:
            self._taken[node] = message_id

    def settle(self, node: int, state: Any, store: Any) -> None:
        """``node`` has nothing in hand: hand its last message out once more, or count it as lost, unless it is answered."""
        with self._lock:
            message_id = self._taken.pop(node, "")
            if (message := state.message_ins_store.get(message_id)) is None:
                self._forget(message_id)
            elif not is_answered(message_id, state, store):
                if has_objects(message_id, store) and message_id not in self._handed_twice:
                    self._handed_twice.add(message_id)
                    message.metadata.delivered_at = ""
                else:
                    self.lost.add(message_id)

    def forget(self, message_ids: set[str]) -> None:
        """The ServerApp has been told of these."""
        with self._lock:
            for message_id in message_ids:
                self._forget(message_id)

    def _forget(self, message_id: str) -> None:
        self.lost.discard(message_id)
        self._handed_twice.discard(message_id)


def has_objects(message_id: str, store: Any) -> bool:
    """Whether a message is still in ``store``: a node that has received it as a whole has had it deleted."""
    from flwr.supercore.object_store import NoObjectInStoreError

    with suppress(NoObjectInStoreError):
        store.get_object_tree(message_id)
        return True
    return False


def is_answered(message_id: str, state: Any, store: Any) -> bool:
    """Whether the reply to a message is there as a whole; an incomplete one goes, for the rest will not come."""
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

    with state.lock:
        if (reply := state.message_ins_id_to_message_res_id.get(message_id)) is None:
            return False
        if has_objects(reply, store) and not all(
            store.get(tree.object_id) for tree in iterate_object_tree(store.get_object_tree(reply))
        ):
            del state.message_ins_id_to_message_res_id[message_id], state.message_res_store[reply]
            store.delete(reply)
            return False
        return True


def availability(check: Callable[..., dict[str, Any]], in_hand: InHand) -> Callable[..., dict[str, Any]]:
    """Flower's ``check_node_availability_for_in_message`` that also fails messages that are lost, and offline nodes later."""

    def check_node_availability(
        inquired_in_message_ids: set[str], found_in_message_dict: dict[str, Any], node_id_to_online_until: dict[int, float],
        current_time: float | None = None, update_set: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        lost = inquired_in_message_ids & in_hand.lost
        replies = check(set(lost), found_in_message_dict, {}, current_time)  # no node is online: all fail
        in_hand.forget(lost)
        later = {node: until + REPLY_GRACE_S for node, until in node_id_to_online_until.items()}
        replies |= check(inquired_in_message_ids - lost, found_in_message_dict, later, current_time)
        if update_set:
            inquired_in_message_ids.difference_update(replies)
        return replies

    return check_node_availability


def apply(flower: Flower, _context: Any) -> None:
    """Notice lost clients and their messages on this process's SuperLink."""
    pull, deactivate = flower[f"{_HANDLER}:pull_messages"], flower[f"{_HANDLER}:deactivate_node"]
    in_hand = InHand()

    def settle(node: int, state: Any, store: Any) -> None:
        if hasattr(state, "message_ins_store"):  # in a database Flower's own way remains
            in_hand.settle(node, state, store)

    def pull_messages(request: Any, state: Any, store: Any) -> Any:
        node = request.node.node_id
        settle(node, state, store)
        response = pull(request=request, state=state, store=store)
        for message in response.messages_list:
            in_hand.take(node, message.metadata.message_id)
        return response

    def deactivate_node(request: Any, state: Any) -> Any:
        settle(request.node_id, state, state.object_store)
        return deactivate(request=request, state=state)

    flower.replace(f"{_HANDLER}:pull_messages", pull_messages)
    flower.replace(f"{_HANDLER}:deactivate_node", deactivate_node)
    flower.replace(f"{_HANDLER}:HEARTBEAT_MIN_INTERVAL", SHORTEST_INTERVAL_S)
    flower.replace(f"{_STATE}:HEARTBEAT_PATIENCE", PATIENCE)
    flower.replace(_CHECK, availability(flower[_CHECK], in_hand))


PATCH = Patch(
    name="lost-clients",
    process="superlink",
    purpose="a client that has died is noticed within BOUQUET_LOST_AFTER, and a message that it has lost is told at once",
    without="a dead client counts as online for 60 s, and a message that a client has lost is waited for until the deadline",
    needs={
        f"{_HANDLER}:pull_messages": "63c87f5e7a6c",
        f"{_HANDLER}:deactivate_node": "c18781c839be",
        f"{_HANDLER}:HEARTBEAT_MIN_INTERVAL": "",
        f"{_STATE}:HEARTBEAT_PATIENCE": "",
        _CHECK: "7da2db99a202",
    },
    after=("state",),  # it sees the whole state, not a node's own
    apply=apply,
)
