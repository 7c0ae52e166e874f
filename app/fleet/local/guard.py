"""Ends what a run on this machine leaves behind, whoever was killed: ``python guard.py FOLDER``.

Every process of the run has the path of the run's folder in its environment, whatever its parent and its group. This
program waits until its standard input closes, which the kernel does when the launcher ends, however it ends. Then it ends
these processes and removes the folder. It imports nothing of this package: it must start in no time.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_S = 5.0
PATIENCE_S = 30.0


def members(mark: bytes) -> list[int]:
    """The ids of all other processes whose environment holds ``mark``."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    found.append(int(process.name))
    return found


def sweep(mark: bytes) -> None:
    """End the members: by SIGTERM, and those that stay by SIGKILL, until none is left."""
    begun, told = time.monotonic(), set[int]()
    while (left := members(mark)) and time.monotonic() - begun < PATIENCE_S:
        late = time.monotonic() - begun > GRACE_S
        for pid in left:
            if late or pid not in told:
                told.add(pid)
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.05)


def main() -> None:
    """Wait for the end of the launcher, and sweep."""
    folder = sys.argv[1]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # of the terminal, which mean the launcher
    while os.read(0, 1):
        pass
    sweep(folder.encode())
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
