"""A limit on the memory of a process and what it starts, as a container has it: a cgroup of the kernel."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path("/sys/fs/cgroup")


class MemoryLimit:
    """A cgroup, of version 1 or 2."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_v1 = folder.parent.name == "memory"

    def take(self, process: "subprocess.Popen[bytes]") -> None:
        """Count what this process and its children will use."""
        (self._folder / "cgroup.procs").write_text(str(process.pid))

    def leave_free(self, size: int) -> None:
        """Limit the memory to what is used at this moment and ``size`` bytes."""
        fields = dict(line.split() for line in (self._folder / "memory.stat").read_text().splitlines())
        used = int(self._file("memory.usage_in_bytes", "memory.current").read_text())
        # What the kernel can read again from files is no hindrance.
        total = "total_" if self._is_v1 else ""
        used -= int(fields[f"{total}inactive_file"]) + int(fields[f"{total}active_file"])
        self._file("memory.limit_in_bytes", "memory.max").write_text(str(used + size))

    def lift(self) -> None:
        """Take the limit back."""
        self._file("memory.limit_in_bytes", "memory.max").write_text("-1" if self._is_v1 else "max")

    def _file(self, first: str, second: str) -> Path:
        return self._folder / (first if self._is_v1 else second)


@contextmanager
def memory_limit(name: str) -> Iterator[MemoryLimit]:
    """A cgroup without a limit, for the processes to come. The test is skipped where none can be made."""
    parent = ROOT / "memory" if (ROOT / "memory").is_dir() else ROOT
    folder = parent / name
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        if not (folder / "memory.stat").exists():
            pytest.skip("there is no cgroup for memory here")
        yield MemoryLimit(folder)
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(psutil.NoSuchProcess):
                psutil.Process(int(pid)).kill()
        deadline = time.monotonic() + 10
        while (folder / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        folder.rmdir()
