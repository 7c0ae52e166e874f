"""One message on a SuperNode: its process, the calls of that process, and a reply in any case.

Read in flwr 1.39.0: ``supernode/servicer/runtime``, ``supernode/start_client_internal.py``, ``supercore/corestate``.
"""

import socket
import struct
import time
from collections.abc import Callable
from contextlib import nullcontext
from logging import ERROR
from typing import TYPE_CHECKING, Any

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import message_from_proto
from flwr.proto import message_pb2, runtime_pb2
from flwr.supercore import log
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.run import Run
from flwr.supercore.servicer.runtime import runtime_handlers as core_handlers
from flwr.supernode import start_client_internal as internal
from flwr.supernode.nodestate import NodeState
from flwr.supernode.servicer.runtime import runtime_handlers

from app.fleet.host.slots import training_slot
from app.fleet.site.allowed_apps import is_allowed
from app.fleet.site.requirements import unmet
from app.fleet.warm.peer import WarmStartError

if TYPE_CHECKING:
    from app.fleet.warm.executor import WarmExecutor

HEADER = struct.Struct("!BI")  # method name length or failure, payload length
LONGEST_EXIT_S = 5.0  # for a child that has been answered for the last time

# The calls that Flower's run_clientapp makes: name, request type, handler(request, state, task).
_CALLS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "SendTaskHeartbeat": (runtime_pb2.SendTaskHeartbeatRequest, core_handlers.send_task_heartbeat),
    "PullTaskInput": (runtime_pb2.PullTaskInputRequest, runtime_handlers.pull_task_input),
    "PushTaskOutput": (runtime_pb2.PushTaskOutputRequest, runtime_handlers.push_task_output),
    "PullMessages": (runtime_pb2.PullAppMessagesRequest, runtime_handlers.pull_messages),
    "PushMessages": (runtime_pb2.PushAppMessagesRequest, runtime_handlers.push_messages),
    "PullObject": (message_pb2.PullObjectRequest, runtime_handlers.pull_object),
    "PushObject": (message_pb2.PushObjectRequest, runtime_handlers.push_object),
    "ConfirmMessageReceived": (
        message_pb2.ConfirmMessageReceivedRequest,
        runtime_handlers.confirm_message_received,
    ),
}


class Task:
    """One message: its child, its Runtime API calls, and its reply in any case."""

    def __init__(self, executor: "WarmExecutor", state: NodeState, task: Any) -> None:
        self.executor, self.state, self.task = executor, state, task
        # A claim lasts half a minute without a heartbeat, and only the child sends one. So the claim comes last.
        self.token = ""
        self.message: Message | None = None
        self.reply: Any = None  # the object tree of the reply that the child has announced
        self.over_since: float | None = None  # when the child called after its end
        self.given_up = False  # Flower's state has put an error reply in the child's place

    def execute(self) -> None:
        """Run the message; afterwards its reply, or an error in its place, is in the SuperNode's state."""
        state, settings = self.state, self.executor.settings
        run = state.get_run(self.task.run_id)
        fab = state.get_fab(run.fab_hash) if run else None
        if run is None or fab is None:
            self._fail(ErrorCode.UNKNOWN, "the run or its app is not known to this client")
            return
        if not is_allowed(fab.content, settings.allowed_apps):
            self._fail(
                ErrorCode.INVALID_FAB,
                f"this client does not accept the app with hash {fab.hash_str}: it is not in BOUQUET_ALLOWED_APPS",
            )
            return
        context = state.get_run_series_context(run.series_id)
        if missed := unmet(settings.site_require, context.run_config if context else {}):
            self._fail(
                ErrorCode.INVALID_FAB,
                f"this client's site requires {'; '.join(missed)}: BOUQUET_SITE_REQUIRE",
            )
            return
        slots = settings.slots_folder if settings.slots else None
        with training_slot(slots, settings.slots) if slots else nullcontext():
            reason = self._run_in_child(run, fab)
        if self.reply is not None and not self._is_whole(self.reply):
            self._withdraw(self.reply)
            self._fail(ErrorCode.CLIENT_APP_CRASHED, reason)
        elif self.reply is None and not self.given_up:
            self._fail(ErrorCode.CLIENT_APP_CRASHED, reason)

    def _run_in_child(self, run: Run, fab: Fab) -> str:
        """Run the message in a child; returns the reason for the case that it sends no reply."""
        executor = self.executor
        context = self.state.get_run_series_context(run.series_id)
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    warm = executor.app_parent(run, fab, dict(context.run_config) if context else {})
                    if over := executor.why_over():
                        return over
                    self._claim()
                    pid, parent = executor.start_message(warm, run, fab, self.token, theirs)
            except (OSError, ValueError, WarmStartError) as error:
                executor.drop_app(fab.hash_str)
                return f"no process could be started for the message: {error}"
            expired = not self._answer_calls(ours)
        reason = executor.end_message(pid, parent, expired=expired)
        return executor.why_over() or reason

    def _claim(self) -> None:
        self.token = self.token or self.state.claim_task(self.task.task_id) or ""

    def _answer_calls(self, connection: socket.socket) -> bool:
        """Answer the child's calls until it hangs up; False when its heartbeat, its run or its time has ended, or it does not end."""
        connection.settimeout(5.0)
        while self.over_since is None or time.monotonic() - self.over_since < LONGEST_EXIT_S:
            if self.executor.why_over():
                return False
            try:
                header = _read(connection, HEADER.size)
            except TimeoutError:
                if self.state.get_task_by_token(self.token) is None:
                    self.given_up = True
                    return False
                continue
            except OSError:
                return True
            if not header:
                return True
            name_length, length = HEADER.unpack(header)
            try:
                connection.settimeout(60.0)
                body = _read(connection, name_length + length)
                failed, content = self._call(body[:name_length].decode(errors="replace"), body[name_length:])
                connection.sendall(HEADER.pack(failed, len(content)) + content)
                connection.settimeout(5.0)
            except OSError:
                return True
        return False

    def _call(self, name: str, payload: bytes) -> tuple[int, bytes]:
        if (task := self.state.get_task_by_token(self.token)) is None:
            self.over_since = self.over_since or time.monotonic()
            return 1, b"the task's token is no longer valid"
        if name not in _CALLS:
            return 1, f"{name} is not available to a ClientApp".encode()
        request_type, handler = _CALLS[name]
        try:
            request = request_type.FromString(payload)
            if name == "PushMessages":
                self._check_reply(request)
            response = handler(request, self.state, task)
        except Exception as error:
            return 1, f"{type(error).__name__}: {error}".encode()
        if name == "PullMessages" and response.messages_list:
            self.message = message_from_proto(response.messages_list[0])
        elif name == "PushMessages":
            self.reply = request.message_object_trees[0]
        content: bytes = response.SerializeToString()
        return 0, content

    def _check_reply(self, request: Any) -> None:
        """Raise ValueError for what is not the one reply to this message: Flower's SuperNode would end, or send it."""
        (reply,), (tree,) = request.messages_list, request.message_object_trees
        if self.reply is not None or self.message is None:
            raise ValueError("a ClientApp sends one reply to the message that it has received")
        if reply.metadata.reply_to_message_id != self.message.metadata.message_id:
            raise ValueError("the reply is to another message")
        if reply.metadata.message_id != tree.object_id:
            raise ValueError("the reply's objects are those of another message")

    def _is_whole(self, reply: Any) -> bool:
        """Whether all objects of a reply are there: a child can end between announcing its reply and sending it."""
        return all(self.state.object_store.get(tree.object_id) for tree in iterate_object_tree(reply))

    def _withdraw(self, reply: Any) -> None:
        """Take back a reply whose objects will never come; the SuperNode would wait for them for ever."""
        self.state.delete_messages(message_ids=[reply.object_id])
        self.state.object_store.delete(reply.object_id)

    def _fail(self, code: int, reason: str) -> None:
        """Put an error reply in place of the answer, so that the round goes on without this client."""
        log(ERROR, "Message of run %s not processed: %s", self.task.run_id, reason)
        state = self.state
        self._claim()
        if self.message is None:
            waiting = state.get_messages(run_ids=[self.task.run_id], is_reply=False, limit=1)
            if not waiting:
                return
            self.message = waiting[0]
            state.record_message_processing_start(self.message.metadata.message_id)
        state.object_store.delete(self.message.metadata.message_id)
        reply = Message(Error(code, reason), reply_to=self.message)
        internal._insert_message(reply, state, state.object_store)
        state.record_message_processing_end(self.message.metadata.message_id)
        state.finish_task(self.task.task_id, sub_status=SubStatus.FAILED, details=reason)


def _read(connection: socket.socket, length: int) -> bytes:
    """Exactly ``length`` bytes, or none when the other side has hung up."""
    content = bytearray()
    while len(content) < length:
        if not (piece := connection.recv(min(length - len(content), 1 << 20))):
            return b""
        content += piece
    return bytes(content)
