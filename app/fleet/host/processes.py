"""Start processes that end with the process that started them."""

import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import psutil

from app.environment import with_variables
from app.errors import UserError
from app.process import end_with_parent

EMPTY_LINE = re.compile(r"(\x1b\[\d+m|\s|INFO|:)*")  # of Flower's logger
COLOUR = re.compile(r"\x1b\[[\d;]*m")


class Running(Protocol):
    """A process: ``subprocess.Popen``, or an object with the same methods."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


@dataclass
class Processes:
    """Named processes with a log file each, ended in reverse order."""

    logs: Path
    running: dict[str, Running] = field(default_factory=dict)

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start ``command`` with its output in ``<logs>/<name>.log``.

        It leads a group of its own, so Ctrl-C reaches only the launcher, which then ends all processes in order.
        """
        with self.log(name) as log:
            process = subprocess.Popen(
                command,
                env=with_variables(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self.running[name] = process
        return process

    def log(self, name: str) -> BinaryIO:
        """The log file of process ``name``, open for writing at its end."""
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            return (self.logs / f"{name}.log").open("ab")
        except OSError as error:
            raise UserError(
                f"{self.logs} cannot be written ({error.strerror}): give another folder with --results"
            ) from None

    def ended(self) -> dict[str, int]:
        """Exit status of the processes that have ended, by name."""
        running = list(self.running.items())
        return {name: status for name, process in running if (status := process.poll()) is not None}

    def require_running(self) -> None:
        """Raise UserError with the end of its log for a process that has ended."""
        for name, status in self.ended().items():
            raise UserError(self.why_ended(name, status))

    def why_ended(self, name: str, status: int) -> str:
        """How a process ended, with the end of its log."""
        by_signal = f"was ended by {signal.Signals(-status).name}" if status < 0 else ""
        return f"{name} {by_signal or f'ended with status {status}'}: {self._last_words(name)}"

    def whose_log_has(self, words: str) -> str:
        """The name of the first process whose log holds ``words``; empty for none."""
        for name in self.running:
            with suppress(OSError):
                if words in (self.logs / f"{name}.log").read_text(errors="replace"):
                    return name
        return ""

    def _last_words(self, name: str) -> str:
        """The error that a process's log ends with, else its last lines."""
        try:
            text = (self.logs / f"{name}.log").read_text(errors="replace")
        except OSError:
            return ""
        plain = COLOUR.sub("", text)
        lines = [line.strip() for line in plain.splitlines() if not EMPTY_LINE.fullmatch(line)]
        errors = [line for line in lines if line.startswith("error: ")]
        return errors[-1] if errors else " | ".join(lines[-3:])[-500:]

    def stop(self, patience_s: float = 10.0) -> None:
        """End all processes and their descendants. Kill those that do not end in time."""
        family = [member for process in self.running.values() for member in _descendants(process.pid)]
        for process in reversed(self.running.values()):
            process.terminate()
        deadline = time.monotonic() + patience_s
        for process in reversed(self.running.values()):
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # Flower's SuperExec leaves the process group, and its children may live longer than it.
        _, alive = psutil.wait_procs(family, timeout=1.0)
        for member in alive:
            with suppress(psutil.Error):
                member.kill()
        self.running.clear()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
