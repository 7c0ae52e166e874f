"""Sending a phase's messages and waiting for the replies.

Flower's ``Grid.send_and_receive`` sleeps 3 s between looks and gives every array of the model an object,
and so several calls, of its own. Here the model travels as one array, and the wait is the
SuperLink's: Bouquet's SuperLink answers when a reply is there. Against any other SuperLink the pause
between looks grows with the time already waited.
"""

import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from app.learning import arrays as codec
from app.rounds.replies import collect, confirm, size_of
from app.rounds.sending import push

# A confirmation is a call of its own, so replies are confirmed together, before the SuperLink keeps too much.
LARGEST_UNCONFIRMED = 64 * 1024 * 1024
REPLY_MARGIN = 16 * 1024 * 1024
HELD_S = 0.5  # an empty answer that took this long was held by the SuperLink
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 3.0


class OrderedGrid:
    """A ``Grid`` that lists the nodes by partition id, so that a seeded choice of clients can be repeated.

    Node ids are drawn anew whenever a client starts; partition ids are what stays. Flower's strategies list the
    nodes and then draw from Python's global generator, which Flower's heartbeats draw from as well: so the
    generator is seeded when the nodes are listed.

    Attributes:
        partition_of: partition id by node id, as far as known.
        draw: what the next choice of clients is seeded with; the same gives the same choice.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.partition_of: dict[int, int] = {}
        self.draw = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def get_node_ids(self) -> list[int]:
        """The connected nodes, ordered by partition id where it is known."""
        nodes = sorted(
            self._grid.get_node_ids(), key=lambda node: (self.partition_of.get(node, 1 << 62), node)
        )
        random.seed(self.draw)
        return nodes


@dataclass
class Exchange:
    """What came of one phase.

    Attributes:
        replies: in the order they arrived, with the model unpacked under ``arrays``.
        bytes_down: bytes sent to each node, by node id.
        bytes_up: bytes received from each node, by node id.
        seconds: from sending to each node's reply, by node id.
        missing: nodes that did not reply in time.
    """

    replies: list[Message] = field(default_factory=list)
    bytes_down: dict[int, int] = field(default_factory=dict)
    bytes_up: dict[int, int] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)


def packed(messages: Iterable[Message], dtype: str) -> list[Message]:
    """Pack each message's model; one that several messages share is packed once."""
    records: dict[int, tuple[ArrayRecord, ArrayRecord]] = {}
    result = []
    for message in messages:
        arrays = message.content.array_records.get(codec.ARRAYS)
        if arrays is not None:
            if id(arrays) not in records:
                records[id(arrays)] = arrays, codec.pack(codec.from_record(arrays), dtype)
            message.content = codec.replaced(
                message.content, codec.ARRAYS, codec.PACKED, records[id(arrays)][1]
            )
        result.append(message)
    return result


def unpacked(reply: Message) -> Message:
    """Restore a reply's model; one that cannot be restored keeps its packed record for the screening to refuse."""
    if reply.has_content() and codec.PACKED in reply.content.array_records:
        with suppress(ValueError):
            reply.content = codec.unpacked(reply.content)
    return reply


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    *,
    timeout: float,
    dtype: str = "float32",
    meanwhile: Callable[[], None] | None = None,
) -> Exchange:
    """Send ``messages`` and collect the replies.

    Args:
        grid: Flower's grid.
        messages: one phase's messages, as a strategy's ``configure_*`` makes them.
        timeout: seconds to wait for the replies; what came by then is returned.
        dtype: how the model travels, ``float32`` or ``float16``.
        meanwhile: work to do after sending, while the clients work.
    """
    result = Exchange()
    outgoing = packed(messages, dtype)
    if not outgoing:
        if meanwhile:
            meanwhile()
        return result
    start = time.monotonic()
    node_of = {}
    for message in outgoing:
        result.bytes_down[message.metadata.dst_node_id] = size_of(message)
    for message_id, message in zip(push(grid, outgoing), outgoing, strict=True):
        if message_id:
            node_of[message_id] = message.metadata.dst_node_id
        else:
            result.missing.append(message.metadata.dst_node_id)
    # A client sends back what it was sent, changed, and a few numbers.
    limit = 2 * max(result.bytes_down.values()) + REPLY_MARGIN
    if meanwhile:
        meanwhile()
    unconfirmed: list[tuple[Message, int]] = []
    while node_of and (left := timeout - (time.monotonic() - start)) > 0:
        asked = time.monotonic()
        replies = collect(grid, list(node_of), limit)
        now = time.monotonic()
        unconfirmed += replies
        if sum(size for _, size in unconfirmed) > LARGEST_UNCONFIRMED:
            confirm(grid, [reply for reply, _ in unconfirmed])
            unconfirmed.clear()
        for reply, size in replies:
            node = node_of.pop(reply.metadata.reply_to_message_id, None)
            if node is None:
                continue
            result.bytes_up[node] = size
            result.seconds[node] = now - start
            # An error made by the SuperLink for a lost node does not carry that node's id.
            reply.metadata.__dict__["_src_node_id"] = node
            result.replies.append(unpacked(reply))
        if not replies and now - asked < HELD_S:
            pause = min(max(0.1 * (now - start), SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
            time.sleep(min(pause, max(left, 0.0)))
    confirm(grid, [reply for reply, _ in unconfirmed])
    result.missing += node_of.values()
    return result


def wait_for_nodes(grid: Grid, wanted: int, say: Callable[[str], None]) -> list[int]:
    """Wait until ``wanted`` nodes are connected, saying every few seconds how many there are."""
    next_word, pause = time.monotonic() + 2.0, 0.1
    while len(nodes := cast(list[int], list(grid.get_node_ids()))) < wanted:
        if time.monotonic() >= next_word:
            say(f"waiting for clients: {len(nodes)} of {wanted} connected")
            next_word = time.monotonic() + 10.0
        time.sleep(pause)
        pause = min(pause * 1.3, 1.0)
    return nodes
