"""A data store opens in milliseconds, and only a complete one is used."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures_on_disk import hub_folder, image_folder

from app.errors import UserError
from app.learning.data.prepare import Request, prepare
from app.learning.data.store import MANIFEST, Manifest, Store


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    prepare(Request(str(hub_folder(root / "source")), num_partitions=4), root / "store")
    return root / "store"


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    import shutil

    return Path(shutil.copytree(prepared, tmp_path / "store"))


def test_arrays_have_the_promised_types(prepared: Path) -> None:
    partition = Store.open(prepared).partition(3)
    assert partition.train.images.dtype == np.uint8 and partition.train.images.shape == (40, 3, 8, 8)
    assert partition.train.labels.dtype == np.int64 and partition.train.labels.shape == (40,)
    assert len(partition.val) == 10
    assert len(Store.open(prepared).test) == 40


def test_pictures_are_mapped_and_writing_to_them_never_reaches_the_file(store: Path) -> None:
    images = Store.open(store).partition(0).train.images
    assert isinstance(images.base, np.memmap)
    before = images[0].copy()
    images[0] ^= 255
    assert (Store.open(store).partition(0).train.images[0] == before).all()


def test_opening_needs_no_torch(prepared: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from app.learning.data.store import Store;"
        f"Store.open(Path({str(prepared)!r})).partition(0);"
        "sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_default_location_is_the_environments(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUQUET_DATA", str(prepared))
    assert Store.open().path == prepared
    monkeypatch.delenv("BOUQUET_DATA")
    with pytest.raises(UserError, match="BOUQUET_DATA is not set"):
        Store.open()


@pytest.mark.parametrize("partition_id", [-1, 4])
def test_partition_id_out_of_range(prepared: Path, partition_id: int) -> None:
    with pytest.raises(UserError, match=f"partition-id {partition_id} is out of range.* 0 to 3"):
        Store.open(prepared).partition(partition_id)


def test_another_number_of_partitions_is_refused(prepared: Path) -> None:
    store = Store.open(prepared)
    assert len(store.partition_for(1, num_partitions=4).train) == 40
    with pytest.raises(UserError, match=r"num-partitions is 10 but .* prepared for 4; set NUM_CLIENTS=4"):
        store.partition_for(1, num_partitions=10)


def test_own_image_folder_serves_every_partition_id(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "own", {"cat": 10, "dog": 10})
    prepare(Request(str(source), num_partitions=10), tmp_path / "store")
    store = Store.open(tmp_path / "store")
    seventh = store.partition_for(7, num_partitions=10)
    assert (seventh.train.images == store.partition(0).train.images).all()
    assert (store.test.labels == seventh.val.labels).all()


def test_another_model_is_refused(prepared: Path) -> None:
    store = Store.open(prepared)
    store.require(store.manifest.shape, store.manifest.classes)
    with pytest.raises(UserError, match=r"3x8x8 but the model is for 3x32x32.*--image-size 32"):
        store.require((3, 32, 32), store.manifest.classes)
    with pytest.raises(UserError, match="--classes cat,dog"):
        store.require((3, 8, 8), ["cat", "dog"])


def test_data_that_is_divided_otherwise_is_refused_and_ones_own_is_not(
    tmp_path: Path, prepared: Path
) -> None:
    store = Store.open(prepared)
    what = store.manifest.shape, store.manifest.classes
    store.require(*what, store.manifest.division)
    for change in ({"num_partitions": 9}, {"checksum": "0" * 64}, {"seed": 7}, {"partitioner": "shard"}):
        other = store.manifest.model_copy(update=change).division
        with pytest.raises(UserError, match="start all clients anew after a change of NUM_CLIENTS"):
            store.require(*what, other)
    source = image_folder(tmp_path / "own", dict.fromkeys(store.manifest.classes, 10))
    prepare(Request(str(source), num_partitions=10), tmp_path / "store")
    own = Store.open(tmp_path / "store")
    own.require(own.manifest.shape, own.manifest.classes, store.manifest.division)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no prepared data in .*; run `bouquet prepare --out"):
        Store.open(tmp_path / "nothing")


def test_a_store_without_its_manifest_is_none(store: Path) -> None:
    (store / MANIFEST).unlink()
    with pytest.raises(UserError, match="no prepared data"):
        Store.open(store)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', "\x00"])
def test_damaged_manifest(store: Path, text: str) -> None:
    (store / MANIFEST).write_text(text)
    with pytest.raises(
        UserError, match=r"manifest.json is damaged \(.*\); run `bouquet prepare --force`"
    ) as error:
        Store.open(store)
    assert "\n" not in str(error.value)


def test_manifest_of_another_version(store: Path) -> None:
    fields = json.loads((store / MANIFEST).read_text())
    (store / MANIFEST).write_text(json.dumps({**fields, "version": 2}))
    with pytest.raises(UserError, match="damaged"):
        Store.open(store)
    (store / MANIFEST).write_text(json.dumps({**fields, "num_partitions": 5}))
    with pytest.raises(UserError, match="counts and num_partitions disagree"):
        Store.open(store)


def test_missing_truncated_and_foreign_arrays(store: Path) -> None:
    images = store / "partition-1" / "train_images.npy"
    whole = images.read_bytes()
    images.unlink()
    with pytest.raises(UserError, match=r"train_images.npy is damaged .*missing"):
        Store.open(store).partition(1)
    for size in (0, 40, len(whole) // 2):
        images.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"train_images.npy is damaged"):
            Store.open(store).partition(1)
    np.save(images, np.zeros((3, 3, 8, 8), np.uint8))
    with pytest.raises(UserError, match=r"holds uint8 \(3, 3, 8, 8\), not uint8 \(40, 3, 8, 8\)"):
        Store.open(store).partition(1)
    assert len(Store.open(store).partition(0).train) == 40


def test_manifest_survives_its_file(prepared: Path) -> None:
    manifest = Store.open(prepared).manifest
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.classes == ["label-0", "label-1", "label-2", "label-3"]
