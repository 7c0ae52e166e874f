"""What a federation of each contender can be told, and the supervisor that is the same for all."""

import json
import math
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from bench import processes
from bench.faults.line import Line
from bench.faults.verdict import Mark
from bench.faults.work import MARK
from bench.processes import BenchError, Processes

ROLE = "BOUQUET_BENCH_ROLE"
SERVER = "server"
RESTART_S = 10.0
"""The supervisor starts what has died again after so many seconds, as `RestartSec=` of systemd does."""
STOP = threading.Event()
"""Set when the benchmark is interrupted: whoever waits for a federation ends."""
State = Literal["runs", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Work:
    """What all contenders do: the same model on the same pictures, with the same pauses."""

    store: Path
    clients: int = 3
    rounds: int = 8
    work_s: float = 6.0
    """Seconds that a client sleeps in each training."""
    fault_round: int = 3
    """The fault comes when client 1 is half through its training in this round."""


def client(number: int) -> str:
    """The name of a client, counted from 1."""
    return f"site-{number}"


@dataclass
class Federation(ABC):
    """Server and clients of one contender as processes on loopback; client 1 dials in through `line`."""

    processes: Processes
    scratch: Path
    work: Work
    line: Line
    port: int
    """Where the server listens for clients."""

    commands: dict[str, Callable[[], "subprocess.Popen[str]"]] = field(default_factory=dict)
    running: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)
    away_until: dict[str, float] = field(default_factory=dict)
    """When the supervisor starts what has died again (`time.monotonic`)."""

    @abstractmethod
    def start(self) -> None:
        """Start server and clients, and wait until all clients are in."""

    @abstractmethod
    def submit(self) -> None:
        """Start the run."""

    @abstractmethod
    def state(self) -> tuple[State, str]:
        """How the run stands, and in the contender's own word."""

    @abstractmethod
    def misses(self, number: int) -> bool:
        """Whether the server's own list of clients, or its log, says that this client is gone."""

    @abstractmethod
    def result(self) -> str:
        """What the contender says at the end of a run: last lines and result files, without the log of the rounds."""

    def names(self, number: int) -> list[str]:
        """What the contender may call a client."""
        return [client(number)]

    def server_port(self, number: int) -> int:
        """Where a client dials in."""
        return self.line.port if number == 1 else self.port

    def supervise(self, name: str, command: Callable[[], "subprocess.Popen[str]"]) -> None:
        """Start a part, and again whenever it has died (`tend`)."""
        self.commands[name] = command
        self.running[name] = command()

    def tend(self) -> None:
        """Start what has died again when its time has come."""
        for name, process in self.running.items():
            if process.poll() is None:
                continue
            back = self.away_until.setdefault(name, time.monotonic() + RESTART_S)
            if time.monotonic() >= back:
                del self.away_until[name]
                self.running[name] = self.commands[name]()

    def kill(self, name: str, away_s: float = RESTART_S) -> None:
        """SIGKILL a part with all that it has started, as a power cut or the end of a container does."""
        self.away_until[name] = time.monotonic() + away_s
        for _ in range(5):
            found = list(self._family(name))
            for process in found:
                with suppress(psutil.Error):
                    process.kill()
            if not psutil.wait_procs(found, timeout=5)[1] and not list(self._family(name)):
                break
        self.running[name].wait(10)

    def _family(self, name: str) -> Iterator[psutil.Process]:
        with suppress(psutil.Error):
            parent = psutil.Process(self.running[name].pid)
            if parent.status() != psutil.STATUS_ZOMBIE:
                yield parent
            yield from parent.children(recursive=True)
        for process in self.processes.members():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(ROLE) == name:
                    yield process

    def log(self, name: str) -> str:
        """What a part has said so far, in all its lives."""
        file = self.scratch / f"{name}.log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def marks(self) -> list[Mark]:
        """Who has trained when, in the order of time."""
        found = []
        for number in range(1, self.work.clients + 1):
            for line in self.log(client(number)).splitlines():
                _, marker, rest = line.partition(MARK)
                if marker:
                    with suppress(ValueError):
                        found.append(Mark(**json.JSONDecoder().raw_decode(rest)[0]))
        return sorted(found, key=lambda mark: mark.time)


class Contender(ABC):
    """One column of the table."""

    key: str
    title: str
    touched: tuple[str, ...]
    """Settings that differ from the contender's defaults, so that it stands more of the faults."""

    def missing(self) -> str:
        """Why it cannot run here; empty when it can."""
        return ""

    @abstractmethod
    def federation(self, scratch: Path, work: Work, raises: bool) -> AbstractContextManager[Federation]:
        """A federation, ended with all its processes at the end; `raises`: client 1 raises in the fault's round."""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float, poll_s: float = 0.5) -> None:
    """Wait for `condition`. Raises BenchError when it does not come true in time, or the benchmark is interrupted."""

    def true() -> bool:
        if STOP.is_set():
            raise BenchError("interrupted")
        return condition()

    processes.wait_until(true, what, timeout_s, poll_s)


FOR_GOOD = math.inf
