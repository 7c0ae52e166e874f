"""The SuperLink's state as one node may use it, and what it takes of a node's reply.

A node's calls name runs, messages and objects by their ids. Flower looks most of them up without asking whose they are.
Here a node reaches the runs that sent it a message, the objects of the messages that it was given, and its own reply to
each of them. The reply is stored when its last object has arrived, so nobody waits for the rest of one. A reply that
cannot be right becomes an error reply at once, and the log names its sender.

Read in flwr 1.39.0: ``server/superlink/fleet/message_handler/message_handler.py``,
``server/superlink/linkstate/in_memory_linkstate.py``.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from logging import WARNING
from typing import Any

from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, ErrorCode
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.server.utils.validator import validate_message
from flwr.supercore import log
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.run import InvalidRunStatusException

from app.fleet.identity.members import shown_name
from app.fleet.patches.superlink.replies import (
    ALLOWANCE,
    GROWTH,
    ObjectStore,
    RefusedReply,
    Reply,
    announced,
)


@dataclass
class Instruction:
    """A message that a node was given.

    Attributes:
        run_id: its run.
        objects: the ids of its objects, which the node may fetch until it confirms the message.
        size: their bytes, noted when the node confirms the message.
    """

    run_id: int
    objects: frozenset[str]
    size: int = 0


class RepliesLinkState(InMemoryLinkState):
    """Flower's state in memory that knows what each node was given, and takes replies apart from all else.

    Attributes:
        replied: called with a message's id when there is a reply to it.
    """

    def __init__(self, federation_manager: Any, object_store: ObjectStore) -> None:
        super().__init__(federation_manager, object_store)
        self.replied: Callable[[str], None] = lambda _: None
        self._objects = object_store
        self._given: dict[int, dict[str, Instruction]] = {}
        self._runs: dict[int, set[int]] = {}

    # -- what a node was given --------------------------------------------------------------------

    def give(self, node: int, message_id: str) -> ObjectTree:
        """The tree of a message for ``node``, which from now on may fetch its objects. Raises NoObjectInStoreError."""
        tree = InMemoryObjectStore.get_object_tree(self._objects, message_id)
        with self.lock:
            if (message := self.message_ins_store.get(message_id)) is not None:
                run_id = message.metadata.run_id
                ids = frozenset(each.object_id for each in iterate_object_tree(tree))
                self._given.setdefault(node, {})[message_id] = Instruction(run_id, ids)
                self._runs.setdefault(node, set()).add(run_id)
        return tree

    def has_run(self, node: int, run_id: int) -> bool:
        """Whether the run has sent the node a message."""
        return run_id in self._runs.get(node, ())

    def may_fetch(self, node: int, run_id: int, object_id: str) -> bool:
        """Whether the object belongs to a message that the node was given and has not confirmed."""
        with self.lock:
            return any(
                given.run_id == run_id and object_id in given.objects
                for given in self._given.get(node, {}).values()
            )

    def confirm(self, node: int, message_id: str) -> None:
        """The node has fetched a message: its objects may go."""
        with self.lock:
            given = self._given.get(node, {}).get(message_id)
            if given is None or message_id not in given.objects:
                return
            given.size, given.objects = self._objects.size_of(given.objects), frozenset()
        InMemoryObjectStore.delete(self._objects, message_id)

    def delete_messages(self, message_ins_ids: set[str]) -> None:
        """Delete messages and what is noted of them. Objects stay until they are confirmed."""
        with self.lock:
            for message_id in message_ins_ids:
                if (message := self.message_ins_store.get(message_id)) is not None:
                    self._given.get(message.metadata.dst_node_id, {}).pop(message_id, None)
            super().delete_messages(message_ins_ids)

    # -- what a node replies ----------------------------------------------------------------------

    def take_reply(self, node: int, message: Message, tree: ObjectTree) -> list[str]:
        """Expect a reply of ``node``. Returns the ids of the objects that are to come; none where it is left out."""
        answered = message.metadata.reply_to_message_id
        with self.lock:
            asked = self.message_ins_store.get(answered)
            if (
                asked is None
                or asked.metadata.dst_node_id != node
                or asked.metadata.run_id != message.metadata.run_id
                or answered in self.message_ins_id_to_message_res_id
            ):
                return []  # late, a second one, or none of its business
        try:
            self._check_header(message)
            children = announced(tree, message.metadata.message_id)
            limit = GROWTH * self._size_of(node, answered) + ALLOWANCE
            return self._objects.replies.announce(Reply(node, message, tree, children, limit))
        except RefusedReply as error:
            self._refuse(asked, str(error))
            return []

    def take_object(self, node: int, object_id: str, content: bytes) -> bool:
        """Store an object of a reply of ``node``; whether it was one."""
        stored, complete, refused = self._objects.replies.put(node, object_id, content)
        for reply, reason in refused:
            if (asked := self.message_ins_store.get(reply.instruction)) is not None:
                self._refuse(asked, reason)
        for reply in complete:
            if self.store_message_res(reply.header) is None:  # late by now
                self._objects.replies.delete(reply.message_id)
            self.replied(reply.instruction)
        return stored

    def forget(self, message_ids: Collection[str]) -> None:
        """The ServerApp waits no more for replies to these messages."""
        self.delete_messages(set(message_ids))
        self._objects.replies.delete_to(message_ids)

    def _check_header(self, message: Message) -> None:
        message_id = message.metadata.message_id
        if faults := validate_message(message, is_reply_message=True):
            raise RefusedReply(f"its header is not right ({faults[0]})")
        with self.lock:
            if message_id in self.message_ins_store or message_id in self._objects.store:
                raise RefusedReply("its id is that of another message")

    def _size_of(self, node: int, message_id: str) -> int:
        with self.lock:
            given = self._given.get(node, {}).get(message_id)
            return 0 if given is None else given.size or self._objects.size_of(given.objects)

    def _refuse(self, asked: Message, reason: str) -> None:
        """Put an error in the place of the reply to ``asked``, so that the ServerApp need not wait for it."""
        metadata = asked.metadata
        node = metadata.dst_node_id
        name = shown_name(self.nodes[node]) if node in self.nodes else f"node {node}"
        log(WARNING, "Refused the reply of %s: %s", name, reason)
        answer = Metadata(
            run_id=metadata.run_id,
            message_id="",
            src_node_id=node,
            dst_node_id=metadata.src_node_id,
            reply_to_message_id=metadata.message_id,
            group_id=metadata.group_id,
            created_at=now().timestamp(),
            ttl=metadata.ttl,
            message_type=metadata.message_type,
        )
        error = Error(ErrorCode.MESSAGE_UNAVAILABLE, f"the SuperLink refused its reply: {reason}")
        reply = make_message(answer, error=error)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with self.lock:
            if metadata.message_id in self.message_ins_id_to_message_res_id:
                return
            self._store_generated_message(reply)
            self.message_res_store[reply.metadata.message_id] = reply
            self.message_ins_id_to_message_res_id[metadata.message_id] = reply.metadata.message_id
        self.replied(metadata.message_id)


class NodeState:
    """The state, and the store of objects, as the calls of one node see them; all else passes through."""

    def __init__(self, state: RepliesLinkState, node: int) -> None:
        self._state, self._node = state, node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def get_run_status(self, run_ids: set[int]) -> Any:
        """Flower's, for runs of this node. Raises InvalidRunStatusException for any other."""
        if not all(self._state.has_run(self._node, run_id) for run_id in run_ids):
            raise InvalidRunStatusException("this run sent the node no message")
        return self._state.get_run_status(run_ids)

    def get_run_info(self, *, run_ids: Collection[int]) -> Any:
        """Flower's, for runs of this node."""
        mine = [run_id for run_id in run_ids if self._state.has_run(self._node, run_id)]
        return self._state.get_run_info(run_ids=mine)

    def start_session(self, _run_id: int) -> str:
        """No session: the node is known by its key."""
        return ""

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, _session_id: str
    ) -> tuple[bool, list[str]]:
        """Expect a reply."""
        return True, self._state.take_reply(self._node, message, object_tree)

    def store_object(self, _run_id: int, _session_id: str, object_id: str, object_content: bytes) -> bool:
        """Store an object of this node's reply."""
        return self._state.take_object(self._node, object_id, object_content)

    def get_object(self, run_id: int, object_id: str) -> bytes | None:
        """An object of a message that this node was given."""
        if not self._state.may_fetch(self._node, run_id, object_id):
            return None
        return self._state.get_object(run_id, object_id)

    def acknowledge_node_heartbeat(self, node_id: int, heartbeat_interval: float) -> bool:
        """A node is online for a minute by each heartbeat: one that asks for hours would hold up rounds when it dies."""
        interval = min(heartbeat_interval, HEARTBEAT_DEFAULT_INTERVAL)
        return self._state.acknowledge_node_heartbeat(node_id, interval)

    def get_object_tree(self, message_id: str) -> ObjectTree:
        """The tree of a message for this node. Raises NoObjectInStoreError."""
        return self._state.give(self._node, message_id)

    def delete(self, message_id: str) -> None:
        """This node has received a message."""
        self._state.confirm(self._node, message_id)
