"""Any data set of pictures with labels is understood from its features; anything else is one clear line."""

import io
import socket
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures_on_disk import hub_folder, image_folder, noise
from PIL import Image

from app.errors import UserError
from app.learning.data import hub
from app.learning.data.prepare import Request, prepare
from app.learning.data.sources import find
from app.learning.data.store import Manifest, Store


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def prepared(source: Path | str, tmp_path: Path, *, force: bool = False, **settings: Any) -> Manifest:
    return prepare(Request(str(source), num_partitions=2, **settings), tmp_path / "store", force=force)


def test_grey_scale_stays_one_channel_as_in_mnist(tmp_path: Path) -> None:
    source = hub_folder(tmp_path / "mnist", size=(28, 28), mode="L", labels={"label": 10})
    manifest = prepared(source, tmp_path)
    assert manifest.shape == (1, 28, 28) and len(manifest.classes) == 10


def test_fine_labels_are_chosen_by_default_as_in_cifar100(tmp_path: Path) -> None:
    source = hub_folder(tmp_path / "c100", image="img", labels={"coarse_label": 3, "fine_label": 7})
    manifest = prepared(source, tmp_path)
    assert (manifest.image_column, manifest.label_column) == ("img", "fine_label")
    assert manifest.classes[6] == "fine_label-6"
    coarse = prepared(source, tmp_path, label_column="coarse_label", force=True)
    assert len(coarse.classes) == 3


@pytest.mark.parametrize("values", [["ant", "bee", "wasp"], [10, 9, 2]])
def test_plain_labels_become_classes(tmp_path: Path, values: list[Any]) -> None:
    source = hub_folder(tmp_path / "plain", labels={"label": values})
    manifest = prepared(source, tmp_path)
    assert manifest.classes == [str(value) for value in sorted(values)]
    labels = Store.open(tmp_path / "store").partition(0).train.labels
    assert set(labels.tolist()) == {0, 1, 2}


def test_pictures_keep_their_label_and_their_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    # The label is written into every pixel. No metadata: the columns are found all the same.
    pictures = [{"bytes": png(Image.new("RGB", (8, 8), (k, 2 * k, 3 * k))), "path": None} for k in range(60)]
    table = pa.table({"pic": pictures, "index": list(range(60)), "label": list(range(60))})
    pq.write_table(table, folder / "train.parquet")
    prepared(folder, tmp_path)
    store = Store.open(tmp_path / "store")
    assert store.manifest.test_from == "held-out" and store.manifest.test_count == 6
    parts = [split for i in (0, 1) for split in (store.partition(i).train, store.partition(i).val)]
    labels = np.concatenate([part.labels for part in [*parts, store.test]])
    images = np.concatenate([part.images for part in [*parts, store.test]])
    assert sorted(int(store.manifest.classes[label]) for label in labels) == list(range(60))
    for image, label in zip(images, labels, strict=True):
        k = int(store.manifest.classes[label])
        assert (image == np.array([k, 2 * k, 3 * k], np.uint8)[:, None, None]).all()


def test_one_parquet_file_is_a_source(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "source", test=None)
    manifest = prepared(next(folder.rglob("*.parquet")), tmp_path)
    assert manifest.test_from == "held-out" and manifest.test_count == 20


def test_hidden_test_labels_are_no_test_split(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "source", labels={"label": [0, 1]})
    test = next(folder.rglob("test*.parquet"))
    table = pq.read_table(test)
    pq.write_table(table.set_column(1, "label", pa.array([-1] * len(table))), test)
    assert prepared(folder, tmp_path).test_from == "held-out"


def test_mixed_sizes_and_modes_become_one_form(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    pictures = [noise(i, 8, 8, "L") for i in range(30)] + [noise(40, 9, 7), noise(41, 8, 8).convert("RGBA")]
    table = pa.table({"image": [{"bytes": png(p), "path": None} for p in pictures], "label": [0, 1] * 16})
    pq.write_table(table, folder / "train.parquet")
    assert prepared(folder, tmp_path).shape == (3, 32, 32)
    assert prepared(folder, tmp_path, image_size=16, force=True).shape == (3, 16, 16)


def test_folder_with_train_and_test_directories_is_partitioned(tmp_path: Path) -> None:
    root = tmp_path / "source"
    image_folder(root / "train", {"cat": 20, "dog": 20})
    image_folder(root / "test", {"cat": 4, "dog": 4})
    manifest = prepared(root, tmp_path)
    assert manifest.num_partitions == 2 and manifest.test_count == 8
    assert manifest.classes == ["cat", "dog"]


def test_own_image_folder_is_one_partition_of_one_size(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "own", {"cat": 30, "dog": 20}, size=(40, 50))
    (root / ".hidden").mkdir()
    (root / "cat" / "notes.txt").write_text("not a picture")
    (root / "dog" / "more").mkdir()
    noise(9999, 12, 12, "L").save(root / "dog" / "more" / "grey.jpg")
    manifest = prepared(root, tmp_path)
    assert manifest.partitioner == "none" and manifest.num_partitions == 1
    assert manifest.shape == (3, 32, 32) and manifest.classes == ["cat", "dog"]
    assert (manifest.counts[0].train, manifest.counts[0].val) == (40, 11)
    assert manifest.test_from == "partition"


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "own", {"a": 5, "b": 5})
    lying = Image.new("RGB", (32, 32), "white")
    lying.paste((0, 0, 0), (0, 0, 32, 16))  # black on top, and said to be turned by 90 degrees
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        for file in (root / name).iterdir():
            file.unlink()
        for i in range(5):
            lying.save(root / name / f"{i}.jpg", exif=exif, quality=95)
    prepared(root, tmp_path)
    picture = Store.open(tmp_path / "store").partition(0).train.images[0]
    assert picture[:, :, 20:].max() < 50 and picture[:, :, :12].min() > 200


def test_classes_give_every_client_the_same_numbers(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "own", {"dog": 10})
    manifest = prepared(root, tmp_path, classes=["cat", "dog"])
    assert manifest.classes == ["cat", "dog"]
    assert set(Store.open(tmp_path / "store").partition(0).train.labels.tolist()) == {1}
    with pytest.raises(UserError, match="classes does not name dog"):
        prepared(root, tmp_path, classes=["cat", "cow"], force=True)


def spoil(root: Path) -> list[Path]:
    """Three pictures that cannot be read: text, cut short, empty."""
    bad = [root / "cat" / f"{i:03}.png" for i in (3, 4, 5)]
    bad[0].write_text("this is no picture")
    bad[1].write_bytes(bad[1].read_bytes()[:500])
    bad[2].write_bytes(b"")
    return bad


def test_corrupt_pictures_are_counted_and_named(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "own", {"cat": 20, "dog": 20})
    bad = spoil(root)
    with pytest.raises(UserError, match=r"3 of 40 pictures cannot be read: .*--tolerance 3") as error:
        prepared(root, tmp_path)
    assert all(str(file) in str(error.value) for file in bad)
    assert not (tmp_path / "store").exists()
    with pytest.raises(UserError, match="3 of 40"):
        prepared(root, tmp_path, tolerance=2)
    manifest = prepared(root, tmp_path, tolerance=3)
    assert sorted(manifest.skipped) == [str(file) for file in bad]
    assert manifest.counts[0].train + manifest.counts[0].val == 37
    partition = Store.open(tmp_path / "store").partition(0)
    assert len(partition.train) + len(partition.val) == 37
    # No picture was replaced by a black one, and every label still belongs to its picture.
    assert all(image.any() for image in partition.train.images)
    assert int((partition.train.labels == 0).sum() + (partition.val.labels == 0).sum()) == 17


def test_corrupt_pictures_in_parquet_are_counted_too(tmp_path: Path) -> None:
    pictures = [{"bytes": png(noise(i, 8, 8)), "path": f"{i}.png"} for i in range(40)]
    pictures[7]["bytes"] = b"\x89PNG broken"
    table = pa.table({"image": pictures, "label": [0, 1] * 20})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"1 of 40 pictures cannot be read: 7\.png"):
        prepared(tmp_path / "train.parquet", tmp_path)


def test_sixteen_bits_keep_their_brightness_beside_coloured_pictures(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "own", {"colour": 10, "deep": 0})
    for i in range(10):
        dark = np.full((32, 32), 20 * 256, np.uint16)
        Image.fromarray(dark).save(root / "deep" / f"{i}.{'png' if i % 2 else 'ppm'}")
    prepared(root, tmp_path)
    train = Store.open(tmp_path / "store").partition(0).train
    assert train.images.shape[1] == 3
    assert np.unique(train.images[train.labels == 1]).tolist() == [20]


def test_a_broken_link_is_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "own", {"cat": 10, "dog": 10})
    (root / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"1 of 21 pictures cannot be read: .*gone\.png"):
        prepared(root, tmp_path)


def test_linked_class_directories_are_followed(tmp_path: Path) -> None:
    elsewhere = image_folder(tmp_path / "elsewhere", {"x": 10})
    root = image_folder(tmp_path / "own", {"cat": 10})
    (root / "dog").symlink_to(elsewhere / "x")
    (root / "dog" / "loop").symlink_to(elsewhere / "x")
    manifest = prepared(root, tmp_path)
    assert manifest.classes == ["cat", "dog"] and manifest.counts[0].train == 16


def empty(root: Path) -> None:
    root.mkdir()


def empty_directory(root: Path) -> None:
    (root / "data").mkdir(parents=True)


def one_class(root: Path) -> None:
    image_folder(root, {"cat": 10})


def no_class(root: Path) -> None:
    root.mkdir()
    noise(1, 8, 8).save(root / "a.png")


def empty_class(root: Path) -> None:
    image_folder(root, {"cat": 10, "dog": 0})


def one_picture(root: Path) -> None:
    image_folder(root, {"cat": 1, "dog": 0})
    (root / "dog").rmdir()


def broken_parquet(root: Path) -> None:
    root.mkdir()
    (root / "train.parquet").write_bytes(b"PAR1 this is not Parquet")


def no_pictures(root: Path) -> None:
    root.mkdir()
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), root / "train.parquet")


def no_labels(root: Path) -> None:
    root.mkdir()
    rows = [{"bytes": png(noise(i, 8, 8)), "path": None} for i in range(10)]
    pq.write_table(pa.table({"image": rows, "caption": ["x"] * 10}), root / "train.parquet")


def missing_label(root: Path) -> None:
    root.mkdir()
    rows = [{"bytes": png(noise(i, 8, 8)), "path": None} for i in range(10)]
    pq.write_table(pa.table({"image": rows, "label": [0, None] * 5}), root / "train.parquet")


def one_label(root: Path) -> None:
    hub_folder(root, labels={"label": [5]})


def ambiguous_labels(root: Path) -> None:
    hub_folder(root, labels={"colour": 3, "species": 3})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty, "holds no data; give a folder with Parquet files, or one directory of pictures per class"),
        (empty_directory, "class directory data holds no pictures; fill or remove it"),
        (one_class, "has classes: cat; two or more are needed"),
        (no_class, "has classes: none; two or more are needed"),
        (empty_class, "class directory dog holds no pictures"),
        (one_picture, "has classes: cat; two or more"),
        (broken_parquet, "cannot be read: .*Parquet"),
        (no_pictures, "has no image column among: text, label"),
        (no_labels, "has no label column among: image, caption"),
        (missing_label, "has missing labels"),
        (one_label, "has 1 class; two are needed"),
        (ambiguous_labels, "choose one with --label-column: colour, species"),
    ],
)
def test_folders_that_are_no_data_set(tmp_path: Path, make: Any, message: str) -> None:
    root = tmp_path / "source"
    make(root)
    with pytest.raises(UserError, match=f"DATASET=.*{message}") as error:
        prepared(root, tmp_path)
    assert "\n" not in str(error.value) and str(root) in str(error.value)
    assert not (tmp_path / "store").exists()


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    source = hub_folder(tmp_path / "source")
    with pytest.raises(UserError, match=r"label-column=colour does not fit .* columns are: image, label"):
        prepared(source, tmp_path, label_column="colour")
    with pytest.raises(UserError, match="image-column=label does not fit"):
        prepared(source, tmp_path, image_column="label")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c", "nowhere/"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(UserError, match=f"DATASET={name}: no such folder"):
        find(name)


def test_other_files_and_names(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("")
    with pytest.raises(UserError, match="is a file but not Parquet"):
        find(str(tmp_path / "data.txt"))
    with pytest.raises(UserError, match="DATASET is empty"):
        find("  ")
    assert find("mnist").kind == find("uoft-cs/cifar10").kind == "hub"
    assert find("digits").kind == "digits"


@pytest.mark.parametrize("silent", [False, True])
def test_an_unreachable_hub_names_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    import huggingface_hub

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if silent:  # accepts, and never answers
            server.listen()
            monkeypatch.setattr(hub, "TIMEOUT_S", 0.3)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        with pytest.raises(UserError, match=r"DATASET=nobody/nothing: .*the hub cannot be reached") as error:
            prepared("nobody/nothing", tmp_path)
    assert "local folder" in str(error.value) and "DATASET=digits" in str(error.value)
    assert not (tmp_path / "store").exists()
    assert not datasets.config.HF_HUB_OFFLINE


def test_digits_are_embedded(tmp_path: Path) -> None:
    manifest = prepare(Request("digits", num_partitions=10), tmp_path / "store")
    assert manifest.shape == (3, 32, 32) and manifest.classes == [str(i) for i in range(10)]
    assert [c.train + c.val for c in manifest.counts] == [150] * 10
    assert manifest.test_count == 297 and manifest.test_from == "test"
