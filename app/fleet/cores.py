"""How many threads one client may use, and when it may train.

Ten clients with two OpenMP threads each on two cores lose half their time to each other. So a client
gets its share of the cores that it may use, and replicas on one host take turns: at most as many train
at once as there are cores, each with its caches to itself.
"""

import fcntl
import os
import select
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from app.errors import UserError

CRASH_NOTICED_S = 0.2

_CGROUP_QUOTAS = (
    ("/sys/fs/cgroup/cpu.max", None),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def _cgroup_cores() -> float | None:
    """The CPU quota of this container in cores (cgroup v2, then v1), or None without one."""
    for quota_file, period_file in _CGROUP_QUOTAS:
        try:
            words = Path(quota_file).read_text().split()
            if period_file is not None:
                words += Path(period_file).read_text().split()
            quota, period = words[0], float(words[1])
        except (OSError, IndexError, ValueError):
            continue
        if quota != "max" and float(quota) > 0:
            return float(quota) / period
    return None


def available_cores() -> int:
    """Whole cores this process may use: affinity and cgroup quota, at least one."""
    cores = float(len(os.sched_getaffinity(0)))
    if (quota := _cgroup_cores()) is not None:
        cores = min(cores, quota)
    return max(1, int(cores))


def threads_per_client(environment: Mapping[str, str], local_replicas: int) -> int:
    """Threads for one client's training: its share of the cores, or ``BOUQUET_THREADS``.

    Args:
        environment: reads ``BOUQUET_THREADS``.
        local_replicas: clients that share this host's cores.
    """
    if given := environment.get("BOUQUET_THREADS", ""):
        if not given.isdigit() or int(given) < 1:
            raise UserError(f"BOUQUET_THREADS={given!r} is not a whole number of at least 1")
        return int(given)
    return max(1, available_cores() // max(1, local_replicas))


def sleep_soon(environment: MutableMapping[str, str]) -> None:
    """Have OpenMP's threads sleep after a short wait for each other, unless it is said already how they wait.

    GNU's OpenMP, which PyTorch brings along, spins for milliseconds before it sleeps. Two clients with two threads
    each on two cores then mostly wait for threads that got no core: a round of 0.6 s took up to 8 s. On cores
    of its own a client loses at most a tenth with a tiny model and nothing with ResNet-18. For what starts later.
    """
    if "GOMP_SPINCOUNT" not in environment and "OMP_WAIT_POLICY" not in environment:
        environment["GOMP_SPINCOUNT"] = "1000"


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
    bell = folder / "bell"
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.mkfifo(bell)
            handles = [
                held.enter_context((folder / f"slot-{number}.lock").open("a")) for number in range(slots)
            ]
            with (folder / "queue.lock").open("a") as queue, bell.open("r+b", buffering=0) as ringing:
                deadline = time.monotonic() + patience_s
                fcntl.flock(queue, fcntl.LOCK_EX)
                while not any(map(_try_lock, handles)) and time.monotonic() < deadline:
                    # A crashed replica does not ring.
                    if select.select([ringing], [], [], CRASH_NOTICED_S)[0]:
                        ringing.read(1)
        except OSError:
            held.close()
        try:
            yield
        finally:
            held.close()
            _ring(bell)


def _try_lock(handle: TextIO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ring(bell: Path) -> None:
    """Wake the replica that waits at the head of the queue, if there is one."""
    with suppress(OSError):
        descriptor = os.open(bell, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)
