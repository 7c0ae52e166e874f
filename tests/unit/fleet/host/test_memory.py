"""Memory that is left, of the machine and within cgroups of both versions, and what a process holds of it for itself."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from app.fleet.host import memory
from app.fleet.host.memory import available_memory

MB = 1 << 20


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_smallest_limit_above_a_process_counts_and_files_can_be_read_again(cgroups: Path) -> None:
    (cgroups / "own").write_text("0::/outer/inner\n")
    stat = "inactive_file 40\nactive_file 2\n"
    write(cgroups / "cgroup" / "outer", memory__max="1000", memory__current="900", memory__stat=stat)
    write(cgroups / "cgroup" / "outer" / "inner", memory__max="max", memory__current="900", memory__stat=stat)
    assert available_memory() == (142, str(cgroups / "cgroup" / "outer"))


def test_version_1_has_other_names(cgroups: Path) -> None:
    (cgroups / "own").write_text("5:cpu,cpuacct:/\n4:memory:/docker/0\n0::/\n")
    write(
        cgroups / "cgroup" / "memory",  # in a container, what it is in is the root
        memory__limit_in_bytes="500", memory__usage_in_bytes="100", memory__stat="total_inactive_file 7\n",
    )  # fmt: skip
    assert available_memory() == (407, str(cgroups / "cgroup" / "memory"))


def test_without_a_limit_the_machine_counts(cgroups: Path) -> None:
    (cgroups / "own").write_text("4:memory:/\n")
    write(
        cgroups / "cgroup" / "memory",
        memory__limit_in_bytes=str(2**63 - 4096), memory__usage_in_bytes="1", memory__stat="",
    )  # fmt: skip
    assert available_memory().bound == "machine" and available_memory().free > 1 << 20


@pytest.mark.parametrize("may_look", [True, False])
def test_what_a_fork_shares_is_not_its_own(may_look: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where this user may not look at its pages: SuperNodes forbid that, and are not root's."""
    if not may_look:

        def refused(_: psutil.Process) -> None:
            raise psutil.AccessDenied

        monkeypatch.setattr(psutil.Process, "memory_full_info", refused)
    shared = os.urandom(200 * MB)
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        own = os.urandom(50 * MB)
        os.write(write, b"1")
        time.sleep(60)
        os._exit(len(own))
    os.read(read, 1)
    try:
        assert 40 * MB < memory.private_bytes(pid) < 90 * MB
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert memory.private_bytes(pid) == 0 and shared
