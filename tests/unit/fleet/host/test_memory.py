"""Memory that is left, of the machine and within cgroups of both versions."""

from pathlib import Path

import pytest

from app.fleet.host import memory
from app.fleet.host.memory import available_memory


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
