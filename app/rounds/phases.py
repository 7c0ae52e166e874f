"""Sending a phase's messages and waiting for the replies.

Flower's ``Grid.send_and_receive`` sleeps 3 s between looks, and each array of the model costs several calls. Here the
model travels as one array, and Bouquet's SuperLink answers as soon as a reply is there. With any other SuperLink the
pause between looks grows with the time already waited.
"""

import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import ArrayRecord, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from app.packing import arrays as packing
from app.packing.flower import set_source_node
from app.packing.transport import collect, confirm, push, size_of
from app.rounds.enough import Progress, Rule, Verdict

# A confirmation is a call of its own, so replies are confirmed together, before the SuperLink keeps too much.
LARGEST_UNCONFIRMED = 64 * 1024 * 1024
REPLY_MARGIN = 16 * 1024 * 1024
HELD_S = 0.5  # an empty answer that took this long was held by the SuperLink
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 3.0
LOOK_S = 2.0  # between two questions who is online
FIRST_NOTE_S, NOTE_S = 2.0, 30.0  # when people are told who is missing
UNKNOWN_PARTITION = 1 << 62  # sorts after all others


class OrderedGrid:
    """A ``Grid`` that lists the nodes by partition id, so that a seeded choice of clients can be repeated.

    A client gets a new node id at each start, and keeps its partition id. Flower's strategies list the nodes and
    then draw from Python's global generator. Flower's heartbeats draw from it as well, so this class seeds it
    when the nodes are listed.

    Attributes:
        partition_of: partition id by node id, as far as known.
        nodes: what strategies choose from; None for the nodes that are connected. Flower's strategies wait without end
            where there are fewer nodes than they want.
        draw: what the next choice of clients is seeded with; the same gives the same choice.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.partition_of: dict[int, int] = {}
        self.nodes: list[int] | None = None
        self.draw = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def partition(self, node: int) -> int:
        """What a node is sorted by."""
        return self.partition_of.get(node, UNKNOWN_PARTITION)

    def get_node_ids(self) -> list[int]:
        """The connected nodes, ordered by partition id where it is known."""
        nodes = self._grid.get_node_ids() if self.nodes is None else self.nodes
        ordered = sorted(nodes, key=lambda node: (self.partition(node), node))
        random.seed(self.draw)
        return ordered


def packed(messages: Iterable[Message], dtype: str) -> list[Message]:
    """Pack each message's model; one that several messages share is packed once."""
    records: dict[int, tuple[ArrayRecord, ArrayRecord]] = {}
    result = []
    for message in messages:
        arrays = message.content.array_records.get(packing.ARRAYS)
        if arrays is not None:
            if id(arrays) not in records:
                records[id(arrays)] = arrays, packing.pack(packing.from_record(arrays), dtype)
            message.content = packing.replaced(
                message.content, packing.ARRAYS, packing.PACKED, records[id(arrays)][1]
            )
        result.append(message)
    return result


def unpacked(reply: Message) -> Message:
    """Restore a reply's model; one that cannot be restored keeps its packed record for the screening to refuse."""
    if reply.has_content() and packing.PACKED in reply.content.array_records:
        with suppress(ValueError):
            reply.content = packing.unpacked(reply.content)
    return reply


@dataclass
class Exchange:
    """The messages of one phase, and what has come back.

    Attributes:
        grid: Flower's grid.
        dtype: how the model travels, ``float32`` or ``float16``.
        ttl: seconds after which a client gives a message up; None for Flower's twelve hours.
        lost: called when a node that has not replied goes offline.
        returned: called when it is back; its message is sent again, once.
        received: called with each node whose reply has come, and its seconds.
        stale: messages of earlier phases without a reply, by message id. Their replies are counted and dropped.
        replies: the last reply of each node, with the model unpacked under ``arrays``, in the order of arrival.
        bytes_down: bytes sent to each node.
        bytes_up: bytes received from each node.
        seconds: from sending to the reply, of each node.
        arrived_late: replies to ``stale`` messages.
        open: messages of this phase without a reply, by message id.
    """

    grid: Grid
    dtype: str = "float32"
    ttl: float | None = None
    lost: Callable[[int], None] = lambda _: None
    returned: Callable[[int], None] = lambda _: None
    received: Callable[[int, float], None] = lambda _, __: None
    stale: dict[str, int] = field(default_factory=dict)
    replies: dict[int, Message] = field(default_factory=dict)
    bytes_down: dict[int, int] = field(default_factory=dict)
    bytes_up: dict[int, int] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    arrived_late: int = 0
    open: dict[str, int] = field(default_factory=dict)
    _sent: dict[int, tuple[Message, float]] = field(default_factory=dict)
    _offline: set[int] = field(default_factory=set)
    _sent_again: set[int] = field(default_factory=set)
    _unconfirmed: list[tuple[Message, int]] = field(default_factory=list)

    def send(self, messages: Iterable[Message]) -> None:
        """Send each node its message, as a strategy's ``configure_*`` makes them."""
        outgoing = packed(messages, self.dtype)
        now = time.monotonic()
        for message in outgoing:
            node = message.metadata.dst_node_id
            if self.ttl is not None:
                message.metadata.ttl = self.ttl
            self._sent[node] = message, now
            self.bytes_down[node] = self.bytes_down.get(node, 0) + size_of(message)
        for message_id, message in zip(push(self.grid, outgoing) if outgoing else [], outgoing, strict=True):
            if message_id:
                self.open[message_id] = message.metadata.dst_node_id

    def send_again(self, nodes: Iterable[int]) -> None:
        """Ask ``nodes`` anew; one that has not been asked gets what the others got. What they replied is forgotten."""
        messages = []
        for node in nodes:
            message = self._sent.get(node, next(iter(self._sent.values())))[0]
            messages.append(Message(message.content, node, message.metadata.message_type))
            self.replies.pop(node, None)
        self.send(messages)

    def wait(self, enough: Rule, begun: float | None = None) -> None:
        """Collect replies until ``enough`` does not say wait. ``begun``: when that time began to run."""
        looked = time.monotonic()
        begun, alive = looked if begun is None else begun, None
        while enough(self._progress(begun, alive)) is Verdict.WAIT:
            self._collect()
            if time.monotonic() - looked >= LOOK_S:
                alive, looked = self._look(), time.monotonic()
        self._confirm()

    @property
    def asked(self) -> set[int]:
        """Nodes that were sent a message."""
        return set(self._sent)

    @property
    def working(self) -> set[int]:
        """Nodes that have a message and have not replied to it."""
        return set(self.open.values()) - self.replies.keys()

    @property
    def missing(self) -> dict[int, str]:
        """Nodes that have not replied, and why; empty where they still may."""
        here = set(self.open.values())
        refused = "the SuperLink did not take its message"
        return {
            node: "it is offline" if node in self._offline else "" if node in here else refused
            for node in self._sent
            if node not in self.replies
        }

    def _progress(self, begun: float, alive: set[int] | None) -> Progress:
        good = {
            n: self._sent[n][1] + self.seconds[n] - begun
            for n, r in self.replies.items()
            if not r.has_error()
        }
        refused = self._sent.keys() - self.replies.keys() - set(self.open.values()) - self._offline
        failed = (self.replies.keys() - good.keys()) | refused
        return Progress(list(self._sent), good, time.monotonic() - begun, failed, alive)

    def _collect(self) -> None:
        """Take the replies that are there; wait a moment where there is none."""
        # A client sends back what it was sent, changed, and a few numbers.
        limit = 2 * max(self.bytes_down.values()) + REPLY_MARGIN
        looked = time.monotonic()
        replies = collect(self.grid, [*self.open, *self.stale], limit)
        now = time.monotonic()
        self._unconfirmed += replies
        if sum(size for _, size in self._unconfirmed) > LARGEST_UNCONFIRMED:
            self._confirm()
        for reply, size in replies:
            self._take(reply, size, now)
        if not replies and now - looked < HELD_S:
            since = now - min(sent for _, sent in self._sent.values())
            time.sleep(min(max(0.1 * since, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))

    def _take(self, reply: Message, size: int, now: float) -> None:
        message_id = reply.metadata.reply_to_message_id
        if self.stale.pop(message_id, None) is not None:
            self.arrived_late += not reply.has_error()
        node = self.open.pop(message_id, None)
        if node is None or (node in self.replies and not self.replies[node].has_error()):
            return
        if reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE:
            self._note_lost(node)
            return
        self.bytes_up[node] = size
        self.seconds[node] = now - self._sent[node][1]
        # An error made by the SuperLink for a lost node does not carry that node's id.
        set_source_node(reply, node)
        self.replies.pop(node, None)
        self.replies[node] = unpacked(reply)
        self._offline.discard(node)
        self.received(node, self.seconds[node])

    def _look(self) -> set[int]:
        """The nodes that are online; those that have gone or come back are told, and asked again."""
        alive = set(self.grid.get_node_ids())
        for node in self._sent.keys() - self.replies.keys():
            if node not in alive:
                self._note_lost(node)
            elif node in self._offline:
                self._offline.discard(node)
                self.returned(node)
                if node not in self._sent_again:
                    self._sent_again.add(node)
                    self.send_again([node])
        return alive

    def _note_lost(self, node: int) -> None:
        if node not in self._offline:
            self._offline.add(node)
            self.lost(node)

    def _confirm(self) -> None:
        confirm(self.grid, [reply for reply, _ in self._unconfirmed])
        self._unconfirmed.clear()


def wait_for_nodes(
    grid: Grid, wanted: int, limit_s: float, waiting: Callable[[list[int]], None]
) -> list[int]:
    """Wait until ``wanted`` nodes are connected, or ``limit_s`` seconds for fewer; the nodes that are.

    ``waiting`` is told after 2 s and then every 30 s which ones are.
    """
    deadline, next_call, pause = time.monotonic() + limit_s, time.monotonic() + FIRST_NOTE_S, 0.1
    while len(nodes := cast(list[int], list(grid.get_node_ids()))) < wanted:
        now = time.monotonic()
        if now >= deadline:
            break
        if now >= next_call:
            waiting(nodes)
            next_call = now + NOTE_S
        time.sleep(min(pause, max(deadline - now, 0.01)))
        pause = min(pause * 1.3, 1.0)
    return nodes
