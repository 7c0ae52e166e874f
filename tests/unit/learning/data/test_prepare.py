"""`bouquet prepare` writes the whole store or nothing, once."""

import hashlib
import io
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from flwr_datasets import FederatedDataset
from pictures_on_disk import hub_folder
from PIL import Image

from app.errors import UserError
from app.learning.data.prepare import Request, prepare
from app.learning.data.store import MANIFEST, Split, Store

SCRIPT = """
import resource, sys
from pathlib import Path
from app.errors import UserError
from app.learning.data.prepare import Request, prepare

source, out, num_partitions, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    prepare(Request(source, num_partitions=int(num_partitions)), Path(out))
except UserError as error:
    print(error)
    sys.exit(2)
"""


def start(source: Path, out: Path, num_partitions: int = 2, limit: int = 0) -> Any:
    """`prepare` in a process of its own, with a limit on the size of a file in bytes."""
    arguments = [str(source), str(out), str(num_partitions), str(limit)]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Inside, writing more than `size` bytes to one file fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def splits(store: Store) -> list[Split]:
    parts = [store.partition(i) for i in range(store.manifest.num_partitions)]
    return [split for part in parts for split in (part.train, part.val)] + [store.test]


def entries(out: Path) -> set[str]:
    return {entry.name for entry in out.iterdir()}


WHOLE = {MANIFEST, ".lock", "partition-0", "partition-1", "test_images.npy", "test_labels.npy"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return hub_folder(tmp_path / "source", size=(32, 32))


def test_cifar10_is_divided_as_in_the_tutorial(cifar10: Path, tmp_path: Path) -> None:
    manifest = prepare(Request(str(cifar10), num_partitions=10), tmp_path / "store")
    assert manifest.shape == (3, 32, 32) and manifest.classes[3] == "cat"
    table = pq.read_table(next(cifar10.rglob("train-*.parquet")))
    each = len(table) // 10
    assert [(c.train, c.val) for c in manifest.counts] == [(each * 4 // 5, each // 5)] * 10
    tests = pq.read_table(next(cifar10.rglob("test-*.parquet")))
    assert (manifest.test_count, manifest.test_from) == (len(tests), "test")
    store = Store.open(tmp_path / "store")

    # Disjoint, and their union the source: each picture is there as often as in the source.
    found = Counter(
        (image.tobytes(), int(label))
        for split in splits(store)[:-1]
        for image, label in zip(split.images, split.labels, strict=True)
    )
    expected = Counter(
        (np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1).tobytes(), label)
        for data, label in zip(
            table["img"].combine_chunks().field("bytes").to_pylist(), table["label"].to_pylist(), strict=True
        )
    )
    assert found == expected and found.total() == len(table)

    # The tutorial's own lines give the same examples in the same order.
    federated = FederatedDataset(
        dataset=str(cifar10), partitioners={"train": 10}, cache_dir=str(tmp_path / "cache")
    )
    partition = federated.load_partition(7).train_test_split(test_size=0.2, seed=42)
    assert store.partition(7).train.labels.tolist() == partition["train"]["label"][:]
    picture = np.asarray(partition["test"][23]["img"]).transpose(2, 0, 1)
    assert (store.partition(7).val.images[23] == picture).all()


def test_checksum_covers_every_array(source: Path, tmp_path: Path) -> None:
    manifest = prepare(Request(str(source), num_partitions=2), tmp_path / "store")
    digest = hashlib.sha256()
    for split in splits(Store.open(tmp_path / "store")):
        digest.update(split.images.tobytes())
        digest.update(split.labels.tobytes())
    assert manifest.checksum == digest.hexdigest()


def test_twice_is_a_no_op(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    first = prepare(Request(str(source), num_partitions=2), out)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    # The same data elsewhere is the same request.
    source = source.rename(tmp_path / "elsewhere")
    assert prepare(Request(str(source), num_partitions=2), out) == first
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    assert entries(out) == WHOLE


@pytest.mark.parametrize(
    "other",
    [{"num_partitions": 3}, {"partitioner": "linear"}, {"seed": 7}, {"image_size": 16}, {"tolerance": 1}],
)
def test_another_request_needs_force(source: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    out = tmp_path / "store"
    first = prepare(Request(str(source), num_partitions=2), out)
    settings = {"num_partitions": 2, **other}
    with pytest.raises(UserError, match=r"was prepared otherwise .*--force to replace it"):
        prepare(Request(str(source), **settings), out)
    assert Store.open(out).manifest == first
    second = prepare(Request(str(source), **settings), out, force=True)
    assert second != first and Store.open(out).manifest == second
    splits(Store.open(out))


def test_fewer_partitions_leave_none_of_the_old_ones(source: Path, tmp_path: Path) -> None:
    prepare(Request(str(source), num_partitions=5), tmp_path / "store")
    prepare(Request(str(source), num_partitions=2), tmp_path / "store", force=True)
    assert entries(tmp_path / "store") == WHOLE


def test_other_data_needs_force(source: Path, tmp_path: Path) -> None:
    prepare(Request(str(source), num_partitions=2), tmp_path / "store")
    other = hub_folder(tmp_path / "other", train=100)
    with pytest.raises(UserError, match="was prepared otherwise"):
        prepare(Request(str(other), num_partitions=2), tmp_path / "store")


def test_a_damaged_store_is_prepared_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    first = prepare(Request(str(source), num_partitions=2), out)
    for damage in ("partition-1/train_images.npy", "test_labels.npy", MANIFEST):
        (out / damage).unlink()
        assert prepare(Request(str(source), num_partitions=2), out) == first
        splits(Store.open(out))
    (out / MANIFEST).write_text("{")
    assert prepare(Request(str(source), num_partitions=2), out) == first


def test_a_directory_with_other_files_is_left_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(UserError, match=r"holds other files \(thesis.txt\)"):
            prepare(Request(str(source), num_partitions=2), out, force=force)
    assert entries(out) == {"thesis.txt"}


def test_out_below_what_never_takes_a_folder(source: Path) -> None:
    with pytest.raises(UserError, match=r"^/proc/nothing cannot be written"):
        prepare(Request(str(source), num_partitions=2), Path("/proc/nothing"))


def test_out_that_cannot_be_a_directory(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"^{out} cannot be written"):
            prepare(Request(str(source), num_partitions=2), out)


# Full while loading the source, in the middle of a picture array, at the last bytes of one.
@pytest.mark.parametrize("limit", [2_000, 200_000, 3072 * 80])
@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, limit: int, existing: bool) -> None:
    # One colour each: as PNG far smaller than as an array, so that loading them fits.
    source = hub_folder(tmp_path / "source", size=(32, 32), plain=True)
    (tmp_path / "new").mkdir()
    out = tmp_path / "new" / "store"
    before = prepare(Request(str(source), num_partitions=2), out) if existing else None
    with file_size_limit(limit), pytest.raises(UserError, match=f"^{out}: the disk is full") as error:
        prepare(Request(str(source), num_partitions=2, seed=7), out, force=True)
    assert "\n" not in str(error.value)
    if before is None:
        assert not entries(tmp_path / "new")
    else:
        assert entries(out) == WHOLE and Store.open(out).manifest == before
        splits(Store.open(out))


def test_a_prepare_that_is_killed_is_never_used_and_is_made_good(tmp_path: Path) -> None:
    out = tmp_path / "store"
    source = hub_folder(tmp_path / "large", train=3000, size=(48, 48))
    process = start(source, out)
    while not list(out.glob(".preparing/store/partition-0/*.npy")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert MANIFEST not in entries(out) and ".preparing" in entries(out)
    with pytest.raises(UserError, match="no prepared data"):
        Store.open(out)
    prepare(Request(str(source), num_partitions=2), out)
    assert entries(out) == WHOLE


def test_concurrent_prepares_of_one_store(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    processes = [start(source, out, 2 + i % 2) for i in range(4)]
    ends = [(process.communicate(), process.returncode) for process in processes]
    store = Store.open(out)
    won = store.manifest.num_partitions
    for i, ((stdout, stderr), status) in enumerate(ends):
        assert status == (0 if 2 + i % 2 == won else 2), stderr
        assert status == 0 or "was prepared otherwise" in stdout
    splits(store)
    assert entries(out) == WHOLE | {f"partition-{i}" for i in range(won)}


def test_waiting_behind_a_prepare_that_fails(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    processes = [start(source, out, 2, limit) for limit in (2_000, 0, 2_000, 0)]
    ends = [(process.communicate(), process.returncode) for process in processes]
    # Those without a limit succeed whatever came before; the others find the store, or fail alone.
    assert [ends[1][1], ends[3][1]] == [0, 0], ends
    assert entries(out) == WHOLE
    splits(Store.open(out))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 4}, "image-size=4 must be between 8 and 1024"),
        ({"tolerance": -1}, "tolerance=-1 must be 0 or more"),
        ({"classes": ["a", "a"]}, "classes must name two or more different"),
        ({"classes": ["a", "b"]}, "classes is for an own image folder"),
    ],
)
def test_settings_out_of_range(source: Path, tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(Request(str(source), num_partitions=2, **settings), tmp_path / "store")
    assert not (tmp_path / "store").exists()
