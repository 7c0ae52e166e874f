"""Whether a process that has loaded an app can be forked: a fork has no thread of its parent but one, and no CUDA.

An app that has started a thread when it was imported would wait in the fork for what is not there. GNU's OpenMP, which
PyTorch and scikit-learn use, waits so for its pool. Like ``parent.py``, this module imports nothing of this package.
"""

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

LONGEST_END_S = 0.5  # for a thread that is ending
# Jemalloc, which pyarrow holds and pandas, scikit-learn and datasets import, stops its thread before a fork and starts it
# again after: jemalloc_prefork in its src/jemalloc.c. The name is that of the thread.
HARMLESS = frozenset({"jemalloc_bg_thd"})


def why_not() -> str:
    """Why a fork of this process cannot run its app; empty where it can."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "its import starts CUDA"
    # OpenBLAS ends its threads before a fork, and starts others where it needs them: these are no obstacle.
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + LONGEST_END_S
    while (threads := _number_of_threads()) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    if threads <= 1:
        return ""
    names = [each.name for each in threading.enumerate() if each is not threading.main_thread()]
    return f"its import leaves threads behind: {', '.join(names) or f'{threads - 1} of a library, such as OpenMP'}"


def _number_of_threads() -> int:
    """The threads of this process, without those whose library looks after them in a fork."""
    with suppress(OSError):
        return sum(1 for each in Path("/proc/self/task").iterdir() if _name(each) not in HARMLESS)
    return threading.active_count()


def _name(thread: Path) -> str:
    with suppress(OSError):  # it has just ended
        return (thread / "comm").read_text().strip()
    return ""
