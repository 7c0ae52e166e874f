"""Processes that a measurement starts, and their certain end.

Servers and clients start children of their own, some in sessions of their own, so ending process
groups is not enough. Every process inherits a tag in its environment; whoever carries the tag when the
measurement is over is ended, also after Ctrl-C.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

TAG = "BOUQUET_BENCH_TAG"
GRACE_S = 10.0


class BenchError(Exception):
    """A measurement that cannot go on; the text is for the reader of the table."""


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports of the loopback interface that nobody listens on right now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def end_on_sigterm() -> None:
    """Let SIGTERM unwind like Ctrl-C, so that everything started is ended."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float, poll_s: float = 0.2) -> None:
    """Wait for `condition`, or raise BenchError saying what did not happen."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(poll_s)


@dataclass
class Processes(AbstractContextManager["Processes"]):
    """All processes of one measurement. Leaving the context ends them, and their descendants."""

    logs: Path
    env: Mapping[str, str] = field(default_factory=dict)
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)

    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        pipe: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command in a session of its own; its output goes to `<logs>/<name>.log` or to a pipe."""
        with (self.logs / f"{name}.log").open("a", encoding="utf-8") as log:
            out: int | IO[str] = subprocess.PIPE if pipe else log
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env={**os.environ, **self.env, **(env or {}), TAG: self.tag},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self._started.append(process)
            return process

    def run(
        self, name: str, command: Sequence[str | Path], timeout_s: float, *, cwd: Path | None = None
    ) -> Iterator[str]:
        """Run a command to its end and yield its lines of output as they come.

        Raises BenchError when it fails or outlives the time-out; its output is in `<logs>/<name>.log`.
        """
        process = self.start(name, command, cwd=cwd, pipe=True)
        assert process.stdout is not None
        timer = threading.Timer(timeout_s, process.kill)
        timer.daemon = True
        timer.start()
        last = ""
        try:
            with (self.logs / f"{name}.log").open("a", encoding="utf-8") as log:
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    last = line.strip() or last
                    yield line
            status = process.wait()
        finally:
            timer.cancel()
        if status != 0:
            raise BenchError(f"{name} ended with status {status}: {last[:160]} (see {self.logs / name}.log)")

    def members(self) -> list[psutil.Process]:
        """Every living process that carries the tag."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(TAG) == self.tag:
                    found.append(process)
        return found

    def stop(self) -> None:
        """End every member: a request to what was started here, then to what is left, then by force.

        `bouquet up` and others take their own children down when they are asked. New children are looked
        for until none is left.
        """
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + GRACE_S
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        for attempt in range(20):
            members = self.members()
            if not members:
                return
            for member in members:
                with contextlib.suppress(psutil.Error):
                    member.terminate() if attempt == 0 else member.kill()
            psutil.wait_procs(members, timeout=3.0 if attempt == 0 else 1.0)

    def __exit__(self, *exception: object) -> None:
        # A second Ctrl-C must not leave processes behind.
        previous = None
        if threading.current_thread() is threading.main_thread():
            previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.stop()
        finally:
            if previous is not None:
                signal.signal(signal.SIGINT, previous)
