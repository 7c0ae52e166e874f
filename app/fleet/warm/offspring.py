"""What a process has started, and what that has started: an app may not leave a process behind.

A warm process adopts what its descendants orphan, so they stay its descendants whatever they do. Like ``parent.py``, this
module imports nothing of this package.
"""

import ctypes
import os
import select
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
LONGEST_END_S = 2.0


def adopt_orphans() -> None:
    """Become the parent of each descendant that loses its own."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int, spared: Collection[int] = ()) -> Iterator[int]:
    """The living descendants of a process, eldest first, without those below the processes ``spared``."""
    for child in _children(pid):
        if child not in spared:
            yield from descendants(child, spared)
        yield child


def _children(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += [int(child) for child in (thread / "children").read_text().split()]
    return [child for child in found if is_alive(child)]


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def end_all(keep: Collection[int] = (), spared: Collection[int] = ()) -> list[int]:
    """Kill every descendant of this process but ``keep`` and what is below ``spared``.

    Returns this process's own children that have ended; they are waited for.
    """
    deadline = time.monotonic() + LONGEST_END_S
    ended = []
    while True:
        victims = [pid for pid in descendants(os.getpid(), spared) if pid not in keep]
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                ended.append(pid)
        if not victims or time.monotonic() > deadline:
            return ended
        time.sleep(0.002)


def wait(pid: int, timeout_s: float) -> int | None:
    """The exit status of a child; None where it does not end in time or is not there to wait for."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        if not select.select([descriptor], [], [], timeout_s)[0]:
            return None
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None
    finally:
        os.close(descriptor)
