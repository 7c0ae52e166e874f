"""The SuperNodes of one machine, forked from processes that have imported what they need.

Ten clients that each import Flower and PyTorch keep two cores busy for 20 s before they can work, and hold the same
tables ten times. Here Python's fork server imports Flower once, and one warm parent imports PyTorch once. Every
SuperNode is a fork of the fork server, its warm parent is a fork of the first one, and both share memory. They run
the same code as a client that was started alone, and end in the same way.
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
from typing import TYPE_CHECKING

from app.errors import UserError
from app.fleet import supernode
from app.fleet.deployment import SuperNodeSettings
from app.fleet.host.processes import Processes

if TYPE_CHECKING:
    from app.fleet.warm.executor import WarmExecutor

# The modules that a SuperNode imports when it runs.
PRELOADED = [
    "__main__", "app.fleet.local.replicas", "app.fleet.supernode", "app.fleet.warm.executor",
    "flwr.supernode.start_client_internal", "flwr.client.grpc_rere_client.connection",
]  # fmt: skip


class Forked:
    """A forked SuperNode with the methods that ``Processes`` needs."""

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
        warm: whether they share one warm parent; without it each SuperNode starts its own.
    """

    def __init__(self, threads: int, *, warm: bool) -> None:
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()
        self._parent = _begin_warm_parent(threads) if warm else None
        self._is_warm = False

    def start(self, processes: Processes, supernodes: Mapping[str, SuperNodeSettings]) -> None:
        """Start SuperNodes, by their names; ``processes`` takes them over."""
        self._wait_until_warm()
        for name, settings in supernodes.items():
            with processes.log(name) as log:
                parent = self._share(log.fileno())
                process = self._context.Process(
                    target=_serve,
                    args=(settings, log.name, parent),
                    name=name,
                    daemon=True,
                )
                process.start()
            if parent is not None:
                parent.close()
            processes.running[name] = Forked(process)

    def _wait_until_warm(self) -> None:
        if self._parent is not None and not self._is_warm:
            from app.fleet.warm.peer import WarmStartError

            try:
                self._parent.wait_until_warm()
            except WarmStartError:
                self._parent = None  # each SuperNode tries to start its own, and logs the reason if it cannot
        self._is_warm = True

    def _share(self, output: int) -> socket.socket | None:
        """A warm parent for one more SuperNode; None where it has to start its own."""
        try:
            return self._parent.share(output) if self._parent else None
        except (OSError, ValueError):
            return None

    def stop(self) -> None:
        """End the warm parent, after the SuperNodes."""
        if self._parent is not None:
            self._parent.stop()


def _begin_warm_parent(threads: int) -> "WarmExecutor":
    """Imported late: only where the patch ``warm`` is on are there the names that this needs."""
    from app.fleet.warm.executor import WarmExecutor, WarmSettings

    executor = WarmExecutor(WarmSettings(node_config={}, threads=threads))
    executor.begin()
    return executor


def _end_with_launcher() -> None:
    """End this process when the launcher ends. Its parent is the fork server, which lives as long as it does."""
    launcher = parent_process()
    assert launcher is not None
    launcher.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _serve(settings: SuperNodeSettings, log: str, parent: socket.socket | None) -> None:
    """The life of one SuperNode."""
    os.setsid()
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    gc.freeze()  # the collector would touch, and so copy, the memory that is shared with the fork server
    with suppress(OSError):
        Path("/proc/self/comm").write_text(Path(log).stem)  # the name in `ps` and `top`
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    try:
        supernode.serve(settings, parent)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
