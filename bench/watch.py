"""CPU and memory of a running `bouquet up`, by role."""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from app.fleet.warm.parent import PROCESS_NAME
from bench.processes import Processes

_CLIENT = "app.cli supernode", "multiprocessing.forkserver", PROCESS_NAME

Role = Literal["superlink", "serverapp", "client", "other"]


def role(process: psutil.Process) -> Role:
    """What a process of the federation is for. A client is its SuperNode, what that starts and what it is forked from."""
    with contextlib.suppress(psutil.Error):
        line = [process, *process.parents()]
        words = [" ".join([member.name(), *member.cmdline()]) for member in line]
        if any(sign in word for sign in _CLIENT for word in words):
            return "client"
        if "app.cli superlink" in words[0]:
            return "superlink"
        if any("app.cli superlink" in word for word in words):
            return "serverapp"  # with the SuperExec that started it
    return "other"


def by_role(processes: Processes) -> dict[Role, list[psutil.Process]]:
    """The living processes of the federation."""
    found: dict[Role, list[psutil.Process]] = {"superlink": [], "serverapp": [], "client": [], "other": []}
    for process in processes.members():
        found[role(process)].append(process)
    return found


def cpu_s(members: list[psutil.Process]) -> float:
    """CPU seconds so far, of the processes and of their children that have ended."""
    total = 0.0
    for process in members:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def memory_mb(members: list[psutil.Process]) -> tuple[float, float]:
    """(proportional, unique) set size in MB: shared pages divided among their users, and not counted."""
    proportional = unique = 0.0
    for process in members:
        with contextlib.suppress(psutil.Error):
            info = process.memory_full_info()
            unique += info.uss / 1e6
            proportional += getattr(info, "pss", info.uss) / 1e6
    return proportional, unique


@dataclass(slots=True)
class RoundWatch:
    """Follows a run's `summary.json`; notes the SuperLink's CPU time after every round."""

    results: Path
    processes: Processes
    superlink_cpu: list[float] = field(default_factory=list)
    memory: dict[Role, tuple[float, float]] = field(default_factory=dict)
    clients: int = 0
    _superlink: psutil.Process | None = None

    def follow(self, rounds: int, running: Callable[[], bool], poll_s: float = 0.05) -> None:
        """Watch until the last round is done or the command has ended.

        Memory is read once, after the last round but one: reading it takes CPU from the round that follows.
        """
        while running() and len(self.superlink_cpu) < rounds:
            time.sleep(poll_s)
            done = self._rounds_done()
            if done <= len(self.superlink_cpu):
                continue
            if self._superlink is None:
                self._superlink = next(iter(by_role(self.processes)["superlink"]), None)
            if self._superlink is None:
                return
            with contextlib.suppress(psutil.Error):
                times = self._superlink.cpu_times()
                self.superlink_cpu += [times.user + times.system] * (done - len(self.superlink_cpu))
            if done == rounds - 1:
                for name, members in by_role(self.processes).items():
                    self.memory[name] = memory_mb(members)

    def superlink_cpu_per_round(self) -> float | None:
        """Mean CPU seconds of the SuperLink in a round after the first."""
        if len(self.superlink_cpu) < 2:
            return None
        return (self.superlink_cpu[-1] - self.superlink_cpu[0]) / (len(self.superlink_cpu) - 1)

    def _rounds_done(self) -> int:
        try:
            text = (self.results / "latest" / "summary.json").read_text(encoding="utf-8")
            return len(json.loads(text)["round_s"])
        except (OSError, ValueError, KeyError):
            return 0
