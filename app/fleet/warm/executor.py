"""The SuperNode's side of the warm parent: start it, and have a child of it forked for each message.

This takes the place of Flower's SuperExec inside the SuperNode. A SuperNode works on one message at a time, so its main
thread is free while a child trains. It claims the task, has a child forked for it, and answers the child's Runtime API
calls (``task.py``) over a socket pair until the child ends.

Read in flwr 1.39.0: ``supernode/start_client_internal.py``, ``supernode/servicer/runtime``,
``supercore/corestate``. ``patches/supernode/warm.py`` lists what is needed of them.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

from flwr.proto import runtime_pb2
from flwr.supercore import log
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run
from flwr.supernode.nodestate import NodeState
from flwr.supernode.servicer.runtime import runtime_handlers

from app.environment import with_variables
from app.fleet.host.memory import private_bytes
from app.fleet.site.allowed_apps import THE_OWN, AllowedApps
from app.fleet.site.requirements import NO_REQUIREMENTS, Requirements
from app.fleet.warm import parent
from app.fleet.warm.confinement import NOTHING_MORE, Reach
from app.fleet.warm.peer import Peer, WarmStartError, control_pair
from app.fleet.warm.task import Task

READY_TIMEOUT_S = 180.0
LOOK_S = 5.0


@dataclass(frozen=True)
class WarmSettings:
    """How messages are run on this client.

    Attributes:
        node_config: Flower's node config of this client; an app's ``warm_up`` receives it.
        threads: PyTorch threads per message.
        slots: how many replicas of this host may train at once; 0 for no limit.
        slots_folder: folder that the replicas share, or None.
        persistent: one long-lived worker per run instead of a fork per message (GPU).
        allowed_apps: app hashes that this client accepts, or any.
        site_require: what a run's settings must keep to.
        reach: what an app may reach; None for all that this user may.
        memory: bytes that loaded apps may hold together. The one at work is always kept.
        output: descriptor that apps write to; None for this process's own output.
    """

    node_config: dict[str, Any]
    threads: int = 1
    slots: int = 0
    slots_folder: Path | None = None
    persistent: bool = False
    allowed_apps: AllowedApps = THE_OWN
    site_require: Requirements = NO_REQUIREMENTS
    reach: Reach | None = NOTHING_MORE
    memory: int = 0
    output: int | None = None


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
        why_over: why the message at hand is given up: its run has ended, or its time. Empty where it is not.
        has_ended: whether a run, by its id, is known to have ended.
        messages: how many were started.
        loaded: how often an app was loaded, so that its messages are forks of it.
    """

    settings: WarmSettings
    given: socket.socket | None = None
    why_over: Callable[[], str] = lambda: ""
    has_ended: Callable[[int], bool] = lambda _: True
    messages: int = 0
    loaded: int = 0
    _process: subprocess.Popen[bytes] | _Fork | None = None
    _parent: Peer | None = None
    _apps: dict[str, Peer] = field(
        default_factory=dict
    )  # by hash; the one that was used last is the last one
    _never_warm: set[str] = field(default_factory=set)  # hashes of apps that each message loads for itself
    _workers: dict[tuple[str, int], Peer] = field(default_factory=dict)  # by app and run
    _started_any: bool = False

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
                    parent.fork(
                        partial(
                            parent.run_warm_parent_in_fork,
                            theirs,
                            self.settings.threads,
                            self.settings.output,
                        ),
                        ours,
                    )
                )
            else:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", parent.__file__, str(theirs.fileno()), str(os.getpid())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self.settings.output,
                    stderr=self.settings.output,
                    env=with_variables({"OMP_NUM_THREADS": str(self.settings.threads)}),
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
        for fab_hash in list(self._apps):
            self._forget(fab_hash)
        if self._started_any:
            self.end_leftovers()

    def drop_app(self, fab_hash: str) -> None:
        """End the process that has this app loaded, and its workers; other apps stay."""
        self._forget(fab_hash)
        self.end_leftovers()

    def _forget(self, fab_hash: str) -> None:
        for key in [key for key in self._workers if key[0] == fab_hash]:
            self._workers.pop(key).control.close()
        if (peer := self._apps.pop(fab_hash, None)) is not None:
            peer.control.close()

    def end_leftovers(self) -> None:
        """End what apps have left behind, and nothing that is needed for the next message."""
        workers = [peer.pid for peer in self._workers.values()]
        keep = [*(peer.pid for peer in self._apps.values()), *workers]
        if self._parent is not None:
            with suppress(OSError, ValueError):
                self._parent.ask({"op": "end", "keep": keep, "spared": workers})

    def _make_room(self) -> None:
        """End the apps that were used least recently, until the others hold no more than ``settings.memory``.

        A SuperNode works on one message at a time, and its app was used last: no app at work is ended.
        """
        held = {fab_hash: private_bytes(peer.pid) for fab_hash, peer in self._apps.items()}
        total = sum(held.values())
        for fab_hash in list(self._apps)[:-1]:
            if total <= self.settings.memory:
                return
            log(INFO, "An app that was not used lately is unloaded: the loaded ones hold %s MB", total >> 20)
            total -= held[fab_hash]
            self.drop_app(fab_hash)

    def _generic(self) -> Peer:
        if self._parent is None or self._parent.has_ended():
            log(WARNING, "The warm parent has ended; starting a new one")
            self.start()
        assert self._parent is not None
        return self._parent

    def app_parent(self, run: Run, fab: Fab, run_config: dict[str, Any]) -> Peer:
        """The process that has this app loaded; an app that is not loaded yet gets one, which may take its time.

        Raises OSError, ValueError or WarmStartError when there can be none.
        """
        if (peer := self._apps.pop(fab.hash_str, None)) is not None:
            self._apps[fab.hash_str] = peer
            if not peer.has_ended():
                return peer
            log(WARNING, "The app's warm process has ended; starting a new one")
            self._forget(fab.hash_str)
        generic = self._generic()
        if fab.hash_str in self._never_warm:
            return generic
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
                "reach": self.settings.reach,
            }
            self._started_any = True
            pid = generic.start(request, theirs.fileno(), bundle)
        finally:
            os.close(bundle)
            theirs.close()
        peer = Peer(ours, pid)
        try:
            answer = self._hear_loaded(peer)
        except (OSError, ValueError) as error:
            answer = {"failure": str(error)}
        if "ready" not in answer:
            # A child of the generic parent loads the app itself, and reports an error to the server.
            reason = answer.get("unforkable") or answer.get("error") or answer.get("failure")
            log(WARNING, "Each message of %s loads the app anew, which is slower: %s", run.fab_id, reason)
            if "failure" not in answer:
                self._never_warm.add(fab.hash_str)
            ours.close()
            self.end_leftovers()
            return generic
        self._apps[fab.hash_str] = peer
        self.loaded += 1
        self._make_room()
        return peer

    def _hear_loaded(self, peer: Peer) -> dict[str, Any]:
        """What a process says when it has loaded its app. Raises OSError or ValueError, also where the run ends before."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                return peer.hear(LOOK_S)
            except TimeoutError:
                if self.why_over() or time.monotonic() > deadline:
                    raise

    def _worker_for(self, run: Run, peer: Peer) -> Peer:
        """The long-lived worker of a run. Those of runs that have ended make room: a CUDA context takes a GPU's memory."""
        key = (run.fab_hash, run.run_id)
        if (worker := self._workers.get(key)) is not None and not worker.has_ended():
            return worker
        for old in [old for old in self._workers if old == key or self.has_ended(old[1])]:
            ended = self._workers.pop(old)
            ended.control.close()
            if (parent := self._apps.get(old[0])) is not None:
                _wait(parent, ended.pid)
        self.end_leftovers()
        ours, theirs = control_pair()
        with theirs:
            worker = Peer(ours, peer.start({"op": "worker"}, theirs.fileno()))
        self._workers[key] = worker
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
        self.messages += 1
        request = {"op": "fork", "token": token, "threads": self.settings.threads}
        if self.settings.persistent and fab.hash_str in self._apps:
            return self._worker_for(run, warm).start({**request, "op": "run"}, connection.fileno()), None
        if fab.hash_str not in self._apps:
            request["reach"] = self.settings.reach
        return warm.start(request, connection.fileno()), warm

    def end_message(self, pid: int, parent: Peer | None, *, expired: bool) -> str:
        """See to it that nothing of a message goes on; returns how its process ended, for the case of no reply."""
        status = None
        if parent is not None and not expired:
            status = _wait(parent, pid)
        self.end_leftovers()
        if parent is None:
            if expired:
                self._drop_parent_of(pid)
            return f"the worker process {pid} ended before it replied"
        if status is None and (status := _wait(parent, pid)) is None:
            self._drop_peer(parent)
            return "the warm parent ended while the message was being processed"
        if status == -signal.SIGKILL:
            return "the ClientApp's process was killed before it replied: this client is out of memory, or somebody did it"
        return f"the ClientApp's process ended with status {status} before it replied"

    def _drop_parent_of(self, worker: int) -> None:
        for fab_hash, _ in [key for key, peer in self._workers.items() if peer.pid == worker]:
            self.drop_app(fab_hash)

    def _drop_peer(self, peer: Peer) -> None:
        """End a process that does not answer as it should: an app's, or the warm parent with all apps."""
        if hashes := [fab_hash for fab_hash, each in self._apps.items() if each is peer]:
            self.drop_app(hashes[0])
        else:
            self.drop_apps()

    def execute_pending(self, state: NodeState) -> None:
        """Run every task that waits in ``state``; afterwards each message has its reply there."""
        pending = runtime_pb2.PullPendingTasksRequest()
        while tasks := runtime_handlers.pull_pending_tasks(pending, state).tasks:
            for task in tasks:
                Task(self, state, task).execute()


def _wait(parent: Peer, pid: int) -> int | None:
    """The exit status of a process; None where its parent cannot tell."""
    try:
        status = parent.ask({"op": "wait", "pid": pid}).get("status")
    except (OSError, ValueError):
        return None
    return status if isinstance(status, int) else None
