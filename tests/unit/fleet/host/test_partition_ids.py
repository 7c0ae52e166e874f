"""Ten identical replicas hold ten different partition ids, whatever happens to them."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UserError
from app.fleet.host.partition_ids import free_ids, lease, pod_ordinal, resolve

ROOT = Path(__file__).resolve().parents[4]

HOLDER = """
import sys, time
from pathlib import Path
from app.errors import UserError
from app.fleet.host.partition_ids import lease
try:
    number, handle = lease(Path(sys.argv[1]), int(sys.argv[2]))
except UserError as error:
    print("none", flush=True)
    sys.exit(3)
print(number, flush=True)
time.sleep(60)
"""


def _hold(folder: Path, num_partitions: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(num_partitions)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_given_id_wins_over_the_pod_and_the_lease(tmp_path: Path) -> None:
    assert resolve(10, partition_id="3", pod_index="1", leases=tmp_path).id == 3
    assert not list(tmp_path.iterdir()), "no lease is taken when an id is given"


def test_the_pod_ordinal_wins_over_the_lease(tmp_path: Path) -> None:
    assert resolve(10, pod_index="7", leases=tmp_path).id == 7
    assert resolve(10, pod_name="supernode-4", leases=tmp_path).id == 4
    assert pod_ordinal("7", "supernode-4") == ("7", "POD_INDEX")


@pytest.mark.parametrize("value", ["ten", "1.5", " ", "-", "²", "٣", " 3", "1_0"])
def test_an_id_that_is_no_number_is_refused_by_name(value: str) -> None:
    with pytest.raises(UserError, match=r"PARTITION_ID=.*whole number"):
        resolve(10, partition_id=value)


@pytest.mark.parametrize("value", ["10", "-1", "99"])
def test_an_id_out_of_range_is_refused_with_the_range(value: str) -> None:
    with pytest.raises(UserError, match="0 to 9"):
        resolve(10, partition_id=value)
    with pytest.raises(UserError, match="POD_INDEX"):
        resolve(10, pod_index=value)


def test_a_pod_name_without_ordinal_is_refused() -> None:
    with pytest.raises(UserError, match="StatefulSet"):
        resolve(10, pod_name="supernode-abc")


def test_nothing_to_find_an_id_from_is_an_error_that_names_the_settings() -> None:
    with pytest.raises(UserError, match="PARTITION_ID, or BOUQUET_LEASES"):
        resolve(10)


def test_an_extra_replica_is_told_that_no_partition_is_free(tmp_path: Path) -> None:
    held = [lease(tmp_path, 3) for _ in range(3)]
    assert [number for number, _ in held] == [0, 1, 2]
    with pytest.raises(UserError, match="no partition is free"):
        lease(tmp_path, 3)
    held[1][1].close()
    assert lease(tmp_path, 3)[0] == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"BOUQUET_LEASES=.*file"):
        lease(file / "leases", 2)


def test_a_killed_holder_frees_its_id_for_another_process(tmp_path: Path) -> None:
    first, second = _hold(tmp_path, 2), _hold(tmp_path, 2)
    try:
        ids = {_first_line(first), _first_line(second)}
        assert ids == {"0", "1"}
        extra = _hold(tmp_path, 2)
        assert _first_line(extra) == "none" and extra.wait() == 3
        first.kill()
        first.wait()
        third = _hold(tmp_path, 2)
        try:
            assert _first_line(third) in ids
        finally:
            third.kill()
            third.wait()
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _worker(folder: str, num_partitions: int, seconds: float) -> None:
    """Take and drop leases; end with status 1 on meeting another living holder of the same id."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            number, handle = lease(Path(folder), num_partitions)
        except UserError:
            time.sleep(0.002)
            continue
        mark = Path(folder) / f"{number}.held-by-{os.getpid()}"
        mark.touch()
        for other in Path(folder).glob(f"{number}.held-by-*"):
            if other != mark and _alive(int(other.name.rpartition("-")[2])) and other.exists():
                os._exit(1)
        time.sleep(random.uniform(0, 0.01))
        mark.unlink()
        handle.close()


@settings(max_examples=5, deadline=None)
@given(num_partitions=st.integers(1, 6), processes=st.integers(2, 7), kills=st.integers(0, 3))
def test_no_id_is_ever_held_twice_under_random_kills(
    tmp_path_factory: pytest.TempPathFactory, num_partitions: int, processes: int, kills: int
) -> None:
    folder = tmp_path_factory.mktemp("leases")
    context = multiprocessing.get_context("fork")

    def start(count: int, seconds: float) -> list[multiprocessing.context.ForkProcess]:
        workers = [
            context.Process(target=_worker, args=(str(folder), num_partitions, seconds)) for _ in range(count)
        ]
        for worker in workers:
            worker.start()
        return workers

    doomed, workers = start(kills, 5.0), start(processes, 0.5)
    for worker in doomed:
        time.sleep(random.uniform(0, 0.1))
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()
    for worker in workers:
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0] * processes
    # Whatever was killed, every id can be had again.
    again = [lease(folder, num_partitions) for _ in range(num_partitions)]
    assert sorted(number for number, _ in again) == list(range(num_partitions))


def test_free_ids_are_told_without_taking_one(tmp_path: Path) -> None:
    first = lease(tmp_path, 3)[1]
    before = sorted(tmp_path.iterdir())
    assert free_ids(tmp_path, 3) == [1, 2] and sorted(tmp_path.iterdir()) == before
    first.close()
    assert free_ids(tmp_path, 3) == [0, 1, 2] == free_ids(tmp_path / "none", 3)
