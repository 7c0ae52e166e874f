"""The objects of the nodes' replies: each reply has its own, apart from the ServerApp's and from all others'.

Flower keeps every object under its id in one store, whoever announced it. A node that guessed the id of the next
round's config could announce it with false children, and the ServerApp's own announcement was refused as a
contradiction. Here a node can harm no reply but its own: a reply's objects are found by the ServerApp only, and they go
when the reply goes.

Read in flwr 1.39.0: ``supercore/object_store/in_memory_object_store.py``, ``supercore/inflatable``.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
    get_object_children_ids_from_object_content,
    get_object_id,
)
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

from app.fleet.patches.superlink.calls import is_object_id

MOST_OBJECTS = 20_000  # of a reply: a model of 10,000 arrays as stock Flower sends it
DEEPEST = 8  # message, records, record, array, piece of the array: five
MIB = 1024 * 1024
# A client sends back what it was sent, changed, and something beside it.
GROWTH, ALLOWANCE = 2, 64 * MIB


class RefusedReply(ValueError):
    """A reply that cannot be right; the sentence says why and holds nothing that its sender wrote but ids."""


@dataclass
class Reply:
    """A reply on its way, or complete and not yet fetched.

    Attributes:
        node: its sender.
        header: its metadata, without content.
        tree: its objects as announced.
        children: the ids of each object's children, as announced.
        limit: most bytes that its objects may have.
        contents: the objects that have arrived, by id.
        size: their bytes.
    """

    node: int
    header: Message
    tree: ObjectTree
    children: dict[str, list[str]]
    limit: int
    contents: dict[str, bytes] = field(default_factory=dict)
    size: int = 0

    @property
    def message_id(self) -> str:
        return self.header.metadata.message_id

    @property
    def instruction(self) -> str:
        """The id of the message that it answers."""
        return self.header.metadata.reply_to_message_id

    def missing(self) -> list[str]:
        """The objects that have not arrived, children before parents."""
        return [name for name in self.children if name not in self.contents]

    def fault(self, object_id: str, content: bytes) -> str:
        """Why ``content`` cannot be its object ``object_id``; empty where it can."""
        if get_object_id(content) != object_id:
            return f"object {object_id} is not what its id says"
        try:
            validate_object_content(content)
        except UnexpectedObjectContentError:
            return f"object {object_id} cannot be read"
        if get_object_children_ids_from_object_content(content) != self.children[object_id]:
            return f"object {object_id} has other children than announced"
        if self.size + len(content) > self.limit:
            return f"it holds more than {self.limit // MIB} MiB"
        return ""


class Replies:
    """The replies of all nodes. Any thread may call it. A message has one reply at most."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._replies: dict[str, Reply] = {}  # by message id
        self._answering: dict[str, str] = {}  # by the id of the message that is answered
        self._by_node: dict[int, set[str]] = {}
        self._holders: dict[str, set[str]] = {}  # object id -> the replies in which it has arrived

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._replies

    def announce(self, reply: Reply) -> list[str]:
        """Expect the objects of ``reply`` in the place of an earlier one to the same message; the ids to come.

        Raises:
            RefusedReply: another node's reply has its id.
        """
        with self._lock:
            known = self._replies.get(reply.message_id)
            if known is not None and (known.node, known.tree) != (reply.node, reply.tree):
                raise RefusedReply("its id is that of another reply")
            if known is not None:  # sent again, because an answer was lost
                return known.missing()
            self.delete_to([reply.instruction])
            self._replies[reply.message_id] = reply
            self._answering[reply.instruction] = reply.message_id
            self._by_node.setdefault(reply.node, set()).add(reply.message_id)
            return reply.missing()

    def put(
        self, node: int, object_id: str, content: bytes
    ) -> tuple[bool, list[Reply], list[tuple[Reply, str]]]:
        """Store an object in those replies of the node that miss it.

        Returns:
            Whether it was stored, the replies that are complete by that, and those that are refused and gone, with
            the reason.
        """
        waiting = self._waiting(node, object_id)
        faults = {
            reply.message_id: reply.fault(object_id, content) for reply in waiting
        }  # hashing needs no lock
        stored, complete, refused = False, [], []
        with self._lock:
            for reply in self._waiting(node, object_id):
                if fault := faults.get(reply.message_id, ""):
                    self.delete(reply.message_id)
                    refused.append((reply, fault))
                elif reply.message_id in faults:
                    stored = True
                    reply.contents[object_id] = content
                    reply.size += len(content)
                    self._holders.setdefault(object_id, set()).add(reply.message_id)
                    if len(reply.contents) == len(reply.children):
                        complete.append(reply)
        return stored, complete, refused

    def _waiting(self, node: int, object_id: str) -> list[Reply]:
        with self._lock:
            mine = [self._replies[name] for name in self._by_node.get(node, ())]
            return [
                reply for reply in mine if object_id in reply.children and object_id not in reply.contents
            ]

    def get(self, object_id: str) -> bytes | None:
        """An object of any reply; its id is the hash of its content, so all copies are alike."""
        with self._lock:
            for message_id in self._holders.get(object_id, ()):
                return self._replies[message_id].contents[object_id]
            return None

    def tree(self, message_id: str) -> ObjectTree | None:
        """The tree of a reply."""
        reply = self._replies.get(message_id)
        return reply.tree if reply is not None else None

    def delete(self, message_id: str) -> None:
        """Forget a reply and its objects."""
        with self._lock:
            if (reply := self._replies.pop(message_id, None)) is None:
                return
            del self._answering[reply.instruction]
            _discard(self._by_node, reply.node, message_id)
            for name in reply.contents:
                _discard(self._holders, name, message_id)

    def delete_to(self, instructions: Iterable[str]) -> None:
        """Forget the replies to these messages."""
        with self._lock:
            for instruction in instructions:
                self.delete(self._answering.get(instruction, ""))

    def delete_in_run(self, run_id: int) -> None:
        """Forget the replies of a run."""
        with self._lock:
            for reply in list(self._replies.values()):
                if reply.header.metadata.run_id == run_id:
                    self.delete(reply.message_id)


def _discard(index: dict[Any, set[str]], key: Any, message_id: str) -> None:
    index[key].discard(message_id)
    if not index[key]:
        del index[key]


def announced(tree: ObjectTree, message_id: str) -> dict[str, list[str]]:
    """The ids of each object's children, children before parents.

    Raises:
        RefusedReply: the tree cannot be that of the message ``message_id``.
    """
    if tree.object_id != message_id:
        raise RefusedReply("the root of its objects is not the message itself")
    children: dict[str, list[str]] = {}
    for number, (node, depth) in enumerate(_walk(tree)):
        if number >= MOST_OBJECTS:
            raise RefusedReply(f"it has more than {MOST_OBJECTS} objects")
        if depth > DEEPEST:
            raise RefusedReply(f"its objects are more than {DEEPEST} deep")
        if not is_object_id(node.object_id):
            raise RefusedReply("an object's id is no SHA-256")
        mine = [child.object_id for child in node.children]
        if len(mine) != len(set(mine)):
            raise RefusedReply(f"object {node.object_id} has a child twice")
        if children.setdefault(node.object_id, mine) != mine:
            raise RefusedReply(f"object {node.object_id} stands twice with other children")
    return children


def _walk(tree: ObjectTree, depth: int = 1) -> Iterator[tuple[ObjectTree, int]]:
    for child in tree.children:
        yield from _walk(child, depth + 1)
    yield tree, depth


class ObjectStore(InMemoryObjectStore):
    """Flower's store in memory for what the ServerApp sends, through which it also reads the replies.

    A node's calls reach it through ``node_state.py`` only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replies = Replies()

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Note which objects of a message of the ServerApp are still to come."""
        self.replies.delete(object_tree.object_id)  # the ServerApp's names are its own
        return super().preregister(run_id, object_tree)

    def get_object_tree(self, object_id: str) -> ObjectTree:
        """The tree of a message or of a reply. Raises NoObjectInStoreError."""
        tree = self.replies.tree(object_id)
        return super().get_object_tree(object_id) if tree is None else tree

    def get(self, object_id: str) -> bytes | None:
        """An object; None for an unknown one, empty for one that has not arrived."""
        content = super().get(object_id)
        return content or self.replies.get(object_id) or content

    def delete(self, object_id: str) -> None:
        """Delete a reply, or one of the ServerApp's messages with what only it refers to."""
        if object_id in self.replies:
            self.replies.delete(object_id)
        else:
            super().delete(object_id)

    def delete_objects_in_run(self, run_id: int) -> None:
        """Delete all that a run has sent and received."""
        self.replies.delete_in_run(run_id)
        super().delete_objects_in_run(run_id)

    def size_of(self, object_ids: Iterable[str]) -> int:
        """Bytes of those of the ServerApp's objects that are there."""
        with self.lock_store:
            return sum(len(self.store[name].content) for name in object_ids if name in self.store)
