"""Memory that processes started now may take, of the machine and within this process's cgroup, and what one holds for itself."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")  # cgroups(7): hierarchy:controllers:path
NO_LIMIT = 1 << 60  # version 1 writes the largest number of pages for none


class Memory(NamedTuple):
    """Bytes that are free, and what bounds them: ``machine``, or the folder of a cgroup."""

    free: int
    bound: str


def available_memory() -> Memory:
    """What is left of the smallest limit. Pages of files, which the kernel can read again, count as free."""
    machine = Memory(psutil.virtual_memory().available, "machine")
    return min([machine, *(found for folder in _folders() if (found := _left_in(folder)) is not None)])


def _folders() -> Iterator[Path]:
    """The memory cgroup of this process and those above it. In a container only the outermost is visible."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = CGROUPS / controllers
        folder = root / path.strip("/")
        while folder != root:
            yield folder
            folder = folder.parent
        yield root


def _left_in(folder: Path) -> Memory | None:
    """What is left of one cgroup's limit, version 2 or 1; None where it has no limit."""
    for limit_file, used_file, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        try:
            limit = (folder / limit_file).read_text().strip()
            used = int((folder / used_file).read_text())
            fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit == "max" or int(limit) >= NO_LIMIT:
            return None
        files = sum(int(fields.get(f"{prefix}{name}", 0)) for name in ("inactive_file", "active_file"))
        return Memory(int(limit) - used + files, str(folder))
    return None


def private_bytes(pid: int) -> int:
    """What would be free if this process and its descendants ended; 0 where they are gone.

    Only root may look at the pages of a process that forbids inspection. For others it is what the process has more than
    its parent, which it was forked from.
    """
    try:
        process = psutil.Process(pid)
        return sum(_private(each) for each in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0


def _private(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        try:
            return int(process.memory_full_info().uss)
        except psutil.AccessDenied:
            parent = process.parent()
            return max(0, _anonymous(process) - (_anonymous(parent) if parent else 0))
    return 0


def _anonymous(process: psutil.Process) -> int:
    memory = process.memory_info()
    return int(memory.rss - memory.shared)
