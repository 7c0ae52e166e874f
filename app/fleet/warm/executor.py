"""The SuperNode's side of the warm parent: start it, and have a child of it forked for each message.

Takes the place of Flower's SuperExec inside the SuperNode. A SuperNode works on one message at a time,
so while a child trains nothing needs asking: the SuperNode's main thread claims the task itself, has a
child forked for it, and answers the child's Runtime API calls (``task.py``) over a socket pair until it ends.

Read in flwr 1.39.0: ``supernode/start_client_internal.py``, ``supernode/servicer/runtime``,
``supercore/corestate``. ``unsupported`` says what is missing where these differ.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any

from flwr.proto import runtime_pb2
from flwr.supercore import log
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal as internal
from flwr.supernode.nodestate import NodeState
from flwr.supernode.servicer.runtime import runtime_handlers

from app.fleet.warm import parent
from app.fleet.warm.peer import Peer, WarmStartError, control_pair
from app.fleet.warm.task import Task

READY_TIMEOUT_S = 180.0


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


class _Fork:
    """A fork of this process, with what is needed here of ``subprocess.Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        os.waitpid(self.pid, 0)


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
    _process: subprocess.Popen[bytes] | _Fork | None = None
    _parent: Peer | None = None
    _apps: dict[str, Peer] = field(default_factory=dict)
    _worker: tuple[tuple[str, int], Peer] | None = None

    # -- the warm parent ------------------------------------------------------------------------

    def start(self, *, fork: bool = False) -> None:
        """Start the warm parent and wait until it has warmed up; ``fork`` as for :meth:`begin`.

        Raises:
            WarmStartError: it ended or did not answer.
        """
        self.begin(fork=fork)
        self.wait_until_warm()

    def begin(self, *, fork: bool = False) -> None:
        """Start the warm parent; :meth:`wait_until_warm` before it is used.

        Args:
            fork: as a fork of this process, which has done nothing but import: what both import is imported
                once and held once. Not where this process has another thread.
        """
        self.stop()
        if self.given is not None:
            self._parent, self.given = Peer(self.given, 0), None
            return
        ours, theirs = control_pair()
        with theirs:
            if fork and threading.active_count() == 1:
                self._process = _Fork(
                    parent.fork(partial(parent.become_in_fork, theirs, self.settings.threads), ours)
                )
            else:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", parent.__file__, str(theirs.fileno()), str(os.getpid())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "OMP_NUM_THREADS": str(self.settings.threads)},
                )
        self._parent = Peer(ours, self._process.pid)

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
        ours, theirs = control_pair()
        with theirs:
            self._generic().ask({"op": "worker"}, theirs.fileno(), output)
        return ours

    def stop(self) -> None:
        """End the parent; its children end with it."""
        self.drop_apps()
        if self._parent is not None:
            self._parent.control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._parent = None

    def drop_apps(self) -> None:
        """End the processes that have an app loaded."""
        for _, peer in [*self._apps.items(), *([self._worker] if self._worker else [])]:
            peer.control.close()
        if self._apps and self._parent is not None:
            for peer in self._apps.values():
                with suppress(OSError, ValueError):
                    self._parent.ask({"op": "wait", "pid": peer.pid})
        self._apps, self._worker = {}, None

    def _generic(self) -> Peer:
        if self._parent is None or self._parent.has_ended():
            log(WARNING, "The warm parent has ended; starting a new one")
            self.start()
        assert self._parent is not None
        return self._parent

    def app_parent(self, run: Run, fab: Fab, run_config: dict[str, Any]) -> Peer:
        """The process that has this app loaded; another app gets a fresh one, which may take its time.

        Raises OSError, ValueError or WarmStartError when there can be none.
        """
        if (peer := self._apps.get(fab.hash_str)) is not None:
            if not peer.has_ended():
                return peer
            log(WARNING, "The app's warm process has ended; starting a new one")
        generic = self._generic()
        self.drop_apps()
        ours, theirs = control_pair()
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
        peer = Peer(ours, pid)
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

    def _worker_for(self, run: Run, peer: Peer) -> Peer:
        key = (run.fab_hash, run.run_id)
        if self._worker and self._worker[0] == key and not self._worker[1].has_ended():
            return self._worker[1]
        if self._worker:
            _, ended = self._worker
            self._worker = None
            ended.control.close()
            peer.ask({"op": "wait", "pid": ended.pid})
        ours, theirs = control_pair()
        with theirs:
            worker = Peer(ours, int(peer.ask({"op": "worker"}, theirs.fileno())["pid"]))
        self._worker = (key, worker)
        return worker

    # -- messages -------------------------------------------------------------------------------

    def start_message(
        self, warm: Peer, run: Run, fab: Fab, token: str, connection: socket.socket
    ) -> tuple[int, Peer | None]:
        """Have a process of ``warm`` take on the message of ``token``, its Runtime API calls on ``connection``.

        Returns:
            Its process id, and its parent, which can tell its exit status; None for a long-lived worker.

        Raises:
            OSError or ValueError: no process could be started.
        """
        request = {"op": "fork", "token": token, "threads": self.settings.threads}
        if self.settings.persistent and fab.hash_str in self._apps:
            answer = self._worker_for(run, warm).ask({**request, "op": "run"}, connection.fileno())
            return int(answer["pid"]), None
        return int(warm.ask(request, connection.fileno())["pid"]), warm

    def execute_pending(self, state: NodeState) -> None:
        """Run every task that waits in ``state``; afterwards each message has its reply there."""
        pending = runtime_pb2.PullPendingTasksRequest()
        while tasks := runtime_handlers.pull_pending_tasks(pending, state).tasks:
            for task in tasks:
                Task(self, state, task).execute()


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
        NodeState: ("claim_task", "get_task_by_token", "get_run_series_context", "get_messages", "finish_task"),
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
