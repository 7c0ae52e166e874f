"""What a process asks of the kernel and of the C library: how it ends, and what it does with freed memory.

Imports nothing of this package: the warm parent loads this file by its path.
"""

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4  # sys/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT = 64 << 20


def keep_freed_memory() -> None:
    """Let glibc's ``malloc`` keep up to 64 MiB of what was freed, and so use the same pages in every batch.

    By default the activations of each batch go back to the kernel, which hands them out again as zeroed pages:
    evaluation is a quarter slower for it. A forked child inherits the setting. Other C libraries lack it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT // 2)  # the largest value that glibc takes
        mallopt(M_TRIM_THRESHOLD, KEPT)


def hand_back_memory() -> None:
    """Give freed memory back to the kernel. Otherwise each idle client keeps the 1.4 GB of a step of ResNet-50.

    By itself GNU's C library gives back only the end of the heap. Other libraries lack the function.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def end_with_parent(number: int = signal.SIGTERM, parent: int | None = None) -> None:
    """Have the kernel send this process the signal ``number`` when the one that started it ends (Linux).

    Args:
        number: the signal.
        parent: process id of the one that started this; a process that has lost it already ends at once.
    """
    if (prctl := getattr(ctypes.CDLL(None), "prctl", None)) is not None:
        prctl(PR_SET_PDEATHSIG, number)
        if parent is not None and os.getppid() != parent:
            os._exit(1)


def forbid_inspection() -> None:
    """Let no other process of this user look into this one's memory, as debuggers do (Linux); forks inherit it."""
    if (prctl := getattr(ctypes.CDLL(None), "prctl", None)) is not None:
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt in the body, once. Afterwards the one that came goes to its old handler.

    Flower's handler ends the process from within itself, so nothing of the app could say that it was stopped.
    """
    if threading.current_thread() is not threading.main_thread():  # in a simulation
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    received: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
