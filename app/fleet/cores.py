"""How many threads one client may use, and when it may train.

Ten clients with two OpenMP threads each on two cores lose half their time to each other. So a client
gets its share of the cores that it may use, and replicas on one host take turns: at most as many train
at once as there are cores, each with its caches to itself.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from app.errors import UserError

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


@contextmanager
def training_slot(folder: Path | None, slots: int, patience_s: float = 600.0) -> Iterator[None]:
    """Hold one of ``slots`` training slots that the replicas of a host share.

    The slots are ``flock`` files, so a crash frees them. Without a shared folder, or when none came
    free within ``patience_s`` seconds, training goes on without one: slower, never stuck.
    """
    if folder is None:
        yield
        return
    handles = []
    deadline = time.monotonic() + patience_s
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handles = [(folder / f"slot-{number}.lock").open("a") for number in range(slots)]
    except OSError:
        yield
        return
    try:
        pause = 0.002
        while not any(_try_lock(handle.fileno()) for handle in handles) and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
        yield
    finally:
        for handle in handles:
            handle.close()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
