"""The SuperNode's side of the warm parent: hand a message to a forked child and answer its calls.

Takes the place of Flower's SuperExec inside the SuperNode. A SuperNode works on one message at a time,
so while a child trains nothing needs asking: the SuperNode's main thread claims the task itself, has a
child forked for it, and answers the child's Runtime API calls over a socket pair until the child ends.

Read in flwr 1.39.0: ``supernode/start_client_internal.py``, ``supernode/servicer/runtime``,
``supercore/corestate``. ``unsupported`` says what is missing where these differ.
"""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import message_from_proto
from flwr.proto import message_pb2, runtime_pb2
from flwr.supercore import log
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run
from flwr.supercore.servicer.runtime import runtime_handlers as core_handlers
from flwr.supernode import start_client_internal as internal
from flwr.supernode.nodestate import NodeState
from flwr.supernode.servicer.runtime import runtime_handlers

from app.fleet.apps import is_allowed
from app.fleet.cores import training_slot

PARENT_PROGRAM = Path(__file__).with_name("parent.py")
READY_TIMEOUT_S = 180.0
HEADER = struct.Struct("!BI")
# A child has one connection; Flower's threads for objects would only wait for each other.
ONE_AT_A_TIME = {f"FLWR_PRIVATE_MAX_CONCURRENT_OBJ_{way}": "1" for way in ("PULLS", "PUSHES")}

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


class WarmStartError(Exception):
    """The warm parent did not start; Flower's own executor serves instead."""


@dataclass(frozen=True)
class WarmSettings:
    """How messages are run on this client.

    Attributes:
        node_config: Flower's node config of this client; an app's ``warm_up`` receives it.
        threads: PyTorch threads per message.
        slots: how many replicas of this host may train at once; 0 for no limit.
        slots_folder: folder that the replicas share, or None.
        persistent: one long-lived worker per run instead of a fork per message (GPU).
        allowed_apps: app hashes this client accepts; empty for any.
    """

    node_config: dict[str, Any]
    threads: int = 1
    slots: int = 0
    slots_folder: Path | None = None
    persistent: bool = False
    allowed_apps: frozenset[str] = frozenset()


class _Peer:
    """The SuperNode's end of a control socket of the parent, an app parent or a worker."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.control, self.pid = control, pid

    def ask(self, request: dict[str, Any], *descriptors: int, timeout: float = 30.0) -> dict[str, Any]:
        socket.send_fds(self.control, [json.dumps(request).encode()], list(descriptors))
        return self.hear(timeout)

    def hear(self, timeout: float) -> dict[str, Any]:
        self.control.settimeout(timeout)
        if not (packet := self.control.recv(1 << 16)):
            raise ConnectionError("the process has ended")
        answer: dict[str, Any] = json.loads(packet)
        return answer


def _has_ended(peer: _Peer) -> bool:
    """Whether the process has hung up: nothing else comes from it unasked."""
    return bool(select.select([peer.control], [], [], 0)[0])


def _control_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@dataclass
class WarmExecutor:
    """Runs a SuperNode's messages in children of a warm parent.

    Attributes:
        settings: how messages are run.
        given: control socket of a warm parent that this SuperNode shares with others of its host; without one,
            or when that one has ended, it starts its own.
    """

    settings: WarmSettings
    given: socket.socket | None = None
    _process: subprocess.Popen[bytes] | None = None
    _parent: _Peer | None = None
    _apps: dict[str, _Peer] = field(default_factory=dict)
    _worker: tuple[tuple[str, int], _Peer] | None = None

    # -- the warm parent ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the warm parent and wait until it has warmed up.

        Raises:
            WarmStartError: it ended or did not answer.
        """
        self.begin()
        self.wait_until_warm()

    def begin(self) -> None:
        """Start the warm parent; :meth:`wait_until_warm` before it is used."""
        self.stop()
        if self.given is not None:
            self._parent, self.given = _Peer(self.given, 0), None
            return
        ours, theirs = _control_pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(PARENT_PROGRAM), str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ONE_AT_A_TIME, "OMP_NUM_THREADS": str(self.settings.threads)},
            )
        self._parent = _Peer(ours, self._process.pid)

    def wait_until_warm(self) -> None:
        """Raises WarmStartError when the warm parent ended or did not answer."""
        if self._parent is None or self._process is None:
            return
        try:
            self._parent.hear(READY_TIMEOUT_S)
        except (OSError, ValueError) as error:
            self.stop()
            raise WarmStartError(str(error)) from error

    def share(self, output: int) -> socket.socket:
        """A warm parent for another SuperNode of this host, forked from this one's; it writes to ``output``.

        Raises OSError or ValueError when the parent has ended.
        """
        ours, theirs = _control_pair()
        with theirs:
            self._generic().ask({"op": "worker"}, theirs.fileno(), output)
        return ours

    def stop(self) -> None:
        """End the parent; its children end with it."""
        self._drop_apps()
        if self._parent is not None:
            self._parent.control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._parent = None

    def _drop_apps(self) -> None:
        for _, peer in [*self._apps.items(), *([self._worker] if self._worker else [])]:
            peer.control.close()
        if self._apps and self._parent is not None:
            for peer in self._apps.values():
                with suppress(OSError, ValueError):
                    self._parent.ask({"op": "wait", "pid": peer.pid})
        self._apps, self._worker = {}, None

    def _generic(self) -> _Peer:
        if self._parent is None or _has_ended(self._parent):
            log(WARNING, "The warm parent has ended; starting a new one")
            self.start()
        assert self._parent is not None
        return self._parent

    def _app_parent(self, run: Run, fab: Fab, run_config: dict[str, Any]) -> _Peer:
        """The process that has this app loaded; another app gets a fresh one."""
        if (peer := self._apps.get(fab.hash_str)) is not None:
            if not _has_ended(peer):
                return peer
            log(WARNING, "The app's warm process has ended; starting a new one")
        generic = self._generic()
        self._drop_apps()
        ours, theirs = _control_pair()
        bundle = os.memfd_create("fab")
        try:
            os.write(bundle, fab.content)
            os.lseek(bundle, 0, os.SEEK_SET)
            request = {
                "op": "load",
                "fab_id": run.fab_id,
                "fab_version": run.fab_version,
                "fab_hash": fab.hash_str,
                "run_config": run_config,
                "node_config": self.settings.node_config,
            }
            pid = int(generic.ask(request, theirs.fileno(), bundle)["pid"])
        finally:
            os.close(bundle)
            theirs.close()
        peer = _Peer(ours, pid)
        try:
            answer = peer.hear(READY_TIMEOUT_S)
        except OSError as error:
            answer = {"error": str(error)}
        if "error" in answer:
            # A child of the generic parent meets the same error and reports it to the server.
            log(ERROR, "The app could not be loaded ahead of its messages: %s", answer["error"])
            ours.close()
            with suppress(OSError, ValueError):
                generic.ask({"op": "wait", "pid": pid})
            return generic
        self._apps[fab.hash_str] = peer
        return peer

    def _worker_for(self, run: Run, peer: _Peer) -> _Peer:
        key = (run.fab_hash, run.run_id)
        if self._worker and self._worker[0] == key and not _has_ended(self._worker[1]):
            return self._worker[1]
        if self._worker:
            self._worker[1].control.close()
            self._worker = None
        ours, theirs = _control_pair()
        with theirs:
            worker = _Peer(ours, int(peer.ask({"op": "worker"}, theirs.fileno())["pid"]))
        self._worker = (key, worker)
        return worker

    # -- messages -------------------------------------------------------------------------------

    def execute_pending(self, state: NodeState) -> None:
        """Run every task that waits in ``state``; afterwards each message has its reply there."""
        request = runtime_pb2.AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        while (answer := runtime_handlers.acquire_task(request, state)).HasField("task"):
            _Task(self, state, answer.task, answer.token).execute()


class _Task:
    """One message: its child, its Runtime API calls, and its reply whatever happens."""

    def __init__(self, executor: WarmExecutor, state: NodeState, task: Any, token: str) -> None:
        self.executor, self.state, self.task, self.token = executor, state, task, token
        self.message: Message | None = None
        self.replied = False

    def execute(self) -> None:
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
        slots = settings.slots_folder if settings.slots else None
        with training_slot(slots, settings.slots) if slots else nullcontext():
            reason = self._run_in_child(run, fab)
        if not self.replied:
            self._fail(ErrorCode.CLIENT_APP_CRASHED, reason)

    def _run_in_child(self, run: Run, fab: Fab) -> str:
        """Returns why there may be no reply."""
        executor = self.executor
        context = self.state.get_run_series_context(run.series_id)
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    peer = executor._app_parent(run, fab, dict(context.run_config) if context else {})
                    loaded = fab.hash_str in executor._apps
                    inline = executor.settings.persistent and loaded
                    child_of = executor._worker_for(run, peer) if inline else peer
                    request = {
                        "op": "run" if inline else "fork",
                        "token": self.token,
                        "threads": executor.settings.threads,
                    }
                    pid = int(child_of.ask(request, theirs.fileno())["pid"])
            except (OSError, ValueError, WarmStartError) as error:
                executor._drop_apps()
                return f"no process could be started for the message: {error}"
            expired = not self._answer_calls(ours)
        if expired:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if inline:
            return f"the worker process {pid} ended before it replied"
        try:
            status = int(peer.ask({"op": "wait", "pid": pid})["status"])
        except (OSError, ValueError):
            return "the warm parent ended while the message was being processed"
        return f"the ClientApp's process ended with status {status} before it replied"

    def _answer_calls(self, connection: socket.socket) -> bool:
        """Answer the child's calls until it hangs up; False when its heartbeat has stopped."""
        connection.settimeout(5.0)
        while True:
            try:
                header = _read(connection, HEADER.size)
            except TimeoutError:
                if not self.replied and self.state.get_task_by_token(self.token) is None:
                    self.replied = True  # Flower's state has put an error reply in its place
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
                failed, content = self._call(body[:name_length].decode(), body[name_length:])
                connection.sendall(HEADER.pack(failed, len(content)) + content)
                connection.settimeout(5.0)
            except OSError:
                return True

    def _call(self, name: str, payload: bytes) -> tuple[int, bytes]:
        if (task := self.state.get_task_by_token(self.token)) is None:
            return 1, b"the task's token is no longer valid"
        if name not in _CALLS:
            return 1, f"{name} is not available to a ClientApp".encode()
        request_type, handler = _CALLS[name]
        try:
            response = handler(request_type.FromString(payload), self.state, task)
        except Exception as error:
            return 1, f"{type(error).__name__}: {error}".encode()
        if name == "PullMessages" and response.messages_list:
            self.message = message_from_proto(response.messages_list[0])
        elif name == "PushMessages":
            self.replied = True
        content: bytes = response.SerializeToString()
        return 0, content

    def _fail(self, code: int, reason: str) -> None:
        """Put an error reply in place of the answer, so that the round goes on without this client."""
        log(ERROR, "Message of run %s not processed: %s", self.task.run_id, reason)
        state = self.state
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


def unsupported() -> str:
    """What this Flower lacks of the internals used here; empty when all is there."""
    from importlib.metadata import version

    from flwr.supernode.runtime import run_clientapp

    if not version("flwr").startswith("1.39."):
        return f"flwr {version('flwr')} is not 1.39"
    wanted: dict[Any, tuple[str, ...]] = {
        internal: ("_insert_message", "_push_messages", "_pull_and_store_message", "start_client_internal", "time"),
        run_clientapp: (
            "RuntimeHttpClient", "run_clientapp", "flwr_exit", "register_signal_handlers",
            "install_from_fab", "get_load_client_app_fn", "event",
        ),
        NodeState: ("get_task_by_token", "get_run_series_context", "get_messages", "finish_task"),
    }  # fmt: skip
    missing = [
        f"{owner.__name__}.{name}"
        for owner, names in wanted.items()
        for name in names
        if not hasattr(owner, name)
    ]
    return f"flwr lacks {', '.join(missing)}" if missing else ""


def install(executor: WarmExecutor) -> None:
    """Let the SuperNode's main loop run its messages through ``executor``."""
    stock = internal._push_messages

    def push_messages(state: NodeState, object_store: Any, send: Any, push_object: Any) -> None:
        executor.execute_pending(state)
        stock(state, object_store, send, push_object)

    internal._push_messages = push_messages
    log(INFO, "Messages run in children of a warm process")
