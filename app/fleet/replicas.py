"""The SuperNodes of one machine, forked from processes that have imported what they need.

Ten clients that each import Flower and PyTorch keep two cores busy for 20 s before they can work, and hold the
same tables ten times. Here Python's own fork server imports Flower once, and one warm parent PyTorch once; every
SuperNode, and the warm parent that it uses, is a fork of these and shares their memory. What runs in them, and
what happens when one ends, is the same as for a client that was started by itself.
"""

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from app.errors import UserError
from app.fleet import flower, supernode
from app.fleet.processes import Processes
from app.fleet.warm.executor import WarmExecutor, WarmSettings
from app.fleet.warm.peer import WarmStartError

# What a SuperNode imports when it runs.
PRELOADED = [
    "__main__", "app.fleet.replicas", "app.fleet.supernode", "app.fleet.warm.executor", "app.fleet.refusals",
    "flwr.supernode.start_client_internal", "flwr.client.grpc_rere_client.connection",
]  # fmt: skip


class Forked:
    """A forked SuperNode, as ``Processes`` wants a process."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self.terminate, self.kill = process.terminate, process.kill

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (status := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(str(self._process.name), timeout or 0.0)
        return status


class Replicas:
    """The fork server and the warm parent of one machine's SuperNodes, which take over this process's environment.

    Args:
        threads: PyTorch threads of each SuperNode.
        warm: whether they share one warm parent; else each sees for itself how it runs its messages.
    """

    def __init__(self, threads: int, *, warm: bool) -> None:
        flower.prepare_environment()
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()
        self._parent = WarmExecutor(WarmSettings(node_config={}, threads=threads)) if warm else None
        if self._parent is not None:
            self._parent.begin()

    def start(
        self, processes: Processes, superlink: str, environments: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Start a SuperNode for each name of ``environments``, with these variables over this process's.

        Args:
            processes: takes them over.
            superlink: host:port of the SuperLink's Fleet API, without TLS.
            environments: the variables of each by its name.
        """
        if self._parent is not None:
            try:
                self._parent.wait_until_warm()
            except WarmStartError:
                self._parent = None  # each SuperNode tries by itself, and says why it cannot
        for name, environment in environments.items():
            with processes.log(name) as log:
                parent = self._parent.share(log.fileno()) if self._parent else None
                process = self._context.Process(
                    target=_serve,
                    args=(superlink, dict(environment), log.name, parent),
                    name=name,
                    daemon=True,
                )
                process.start()
            if parent is not None:
                parent.close()
            processes.running[name] = Forked(process)

    def stop(self) -> None:
        """End the warm parent, after the SuperNodes."""
        if self._parent is not None:
            self._parent.stop()


def _end_with_launcher() -> None:
    """End this process when the one that asked for it ends: the fork server, its parent, lives as long as it does."""
    launcher = parent_process()
    assert launcher is not None
    launcher.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _serve(superlink: str, environment: Mapping[str, str], log: str, parent: socket.socket | None) -> None:
    """The life of one SuperNode."""
    os.setsid()
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    gc.freeze()  # keep the collector from touching, and so copying, what is shared with the fork server
    with suppress(OSError):
        Path("/proc/self/comm").write_text(Path(log).stem)  # what `ps` and `top` show
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.update(environment)
    try:
        supernode.serve(
            os.environ, superlink=superlink, ca=None, key=None, health_address=None, parent=parent
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
