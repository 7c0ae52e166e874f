"""When a client may train: the clients of one host take turns.

At most as many train at once as there are cores, each with its caches to itself.
"""

import fcntl
import os
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

CRASH_NOTICED_S = 0.2


@contextmanager
def training_slot(folder: Path | None, slots: int, patience_s: float = 600.0) -> Iterator[None]:
    """Hold one of ``slots`` training slots that the replicas of a host share.

    The slots are ``flock`` files, so a crash frees them. Only the replica at the head of the queue looks for a free
    one, when another says that it has left; the others sleep in the kernel until it is their turn. Without a shared
    folder, or when none came free within ``patience_s`` seconds, training goes on without one: slower, never stuck.
    """
    if folder is None:
        yield
        return
    wake_up = folder / "wake-up"
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.mkfifo(wake_up)
            handles = [
                held.enter_context((folder / f"slot-{number}.lock").open("a")) for number in range(slots)
            ]
            with (folder / "queue.lock").open("a") as queue, wake_up.open("r+b", buffering=0) as pipe:
                deadline = time.monotonic() + patience_s
                fcntl.flock(queue, fcntl.LOCK_EX)
                while not any(map(_try_lock, handles)) and time.monotonic() < deadline:
                    # A client that crashed wakes nobody.
                    if select.select([pipe], [], [], CRASH_NOTICED_S)[0]:
                        pipe.read(1)
        except OSError:
            held.close()
        try:
            yield
        finally:
            held.close()
            _wake_next(wake_up)


def _try_lock(handle: TextIO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wake_next(pipe: Path) -> None:
    """Wake the replica that waits at the head of the queue, if there is one."""
    with suppress(OSError):
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)
