"""How many threads one client may use.

Ten clients with two OpenMP threads each on two cores lose half their time to each other. So a client gets its share of
the cores, and ``slots.py`` lets the clients of one host take turns.
"""

import os
from collections.abc import Mapping
from pathlib import Path

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


def threads_per_client(given: int | None, sharing: int) -> int:
    """Threads for one client's training: the number given, else its share of the cores.

    Args:
        given: ``BOUQUET_THREADS``.
        sharing: clients that share this host's cores.
    """
    return given or max(1, available_cores() // sharing)


def sleep_soon(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that let OpenMP's threads sleep after a short wait; none where OMP_WAIT_POLICY is set.

    GNU's OpenMP, which comes with PyTorch, spins for milliseconds before it sleeps. Two clients with two threads each
    on two cores then mostly wait for threads that have no core: a round of 0.6 s took up to 8 s. A client with cores
    of its own loses at most a tenth with a tiny model and nothing with ResNet-18. The variables must be set before
    OpenMP is loaded.
    """
    chosen = "GOMP_SPINCOUNT" in environment or "OMP_WAIT_POLICY" in environment
    return {} if chosen else {"GOMP_SPINCOUNT": "1000"}
