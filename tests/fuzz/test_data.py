"""Whatever a data set or a data store holds, it is read or refused in one line."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
from fuzzing import cases, near, slow_cases
from hypothesis import example, given
from hypothesis import strategies as st
from pictures_on_disk import hub_folder, noise

from app.errors import UserError
from app.learning.data.columns import check_classes, find_columns
from app.learning.data.pictures import Encoded, FormatMismatch, ImageFormat, decode, first_format
from app.learning.data.prepare import Request, prepare
from app.learning.data.store import MANIFEST, Store
from app.rounds.results import read_events

KINDS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "PCX", "ICO")


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise(1, 16, 16).save(buffer, kind)
    return buffer.getvalue()


@cases
@given(near([picture(kind) for kind in KINDS]))
def test_pictures(content: bytes) -> None:
    encoded = [Encoded(content, None)]
    assert 0 < max(first_format(encoded, None).shape) <= 1024
    try:
        images, bad = decode(encoded, ImageFormat(3, 8, 8, resize=True), 1)
    except FormatMismatch:
        return
    assert images.shape == (1, 3, 8, 8) and bad in ([], [0])


@cases
@given(
    st.one_of(
        st.none(), st.text(max_size=50), st.sampled_from(["/etc/passwd", "/dev/zero", "/set/../etc/passwd"])
    )
)
@example("/set\0")
@example("/set/\udcff")
def test_paths_of_pictures(path: str | None) -> None:
    _, bad = decode([Encoded(None, path, ("/set",))], ImageFormat(3, 8, 8, resize=True), 1)
    assert bad == [0]


FEATURE = st.one_of(
    st.just(datasets.Image()),
    st.builds(lambda n: datasets.ClassLabel(num_classes=n), st.integers(1, 3)),
    st.sampled_from(["int64", "string", "float32", "bool", "binary", "null"]).map(datasets.Value),
    st.just({"bytes": datasets.Value("binary"), "path": datasets.Value("string")}),
    st.just(SimpleNamespace()),
)


@cases
@given(
    st.dictionaries(st.one_of(st.text(max_size=8), st.sampled_from(["image", "label"])), FEATURE, max_size=4),
    st.one_of(st.none(), st.text(max_size=8)),
    st.lists(st.text(max_size=8), max_size=4),
)
def test_columns_and_classes(features: dict[str, Any], column: str | None, classes: list[str]) -> None:
    try:
        image, label = find_columns(features, "set", None, column)
        assert image in features and label in features
        check_classes(classes, "set")
        assert all(name.isprintable() for name in classes)
    except UserError as error:
        assert str(error).isprintable()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    prepare(Request(str(hub_folder(folder / "set", train=20, test=8)), num_partitions=1), folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def content(store: Path) -> dict[str, bytes]:
    return {name: (store / name).read_bytes() for name in (MANIFEST, "test_images.npy", "test_labels.npy")}


@cases
@given(st.data())
def test_stores(store: Path, content: dict[str, bytes], data: st.DataObject) -> None:
    which = data.draw(st.sampled_from(sorted(content)))
    changed = data.draw(near([content[which]]))
    (store / which).write_bytes(changed)
    try:
        opened = Store.open(store)
        test = opened.test
        assert test.images.shape == (opened.manifest.test_count, *opened.manifest.shape)
        assert test.labels.min() >= 0 and test.labels.max() < len(opened.manifest.classes)
    except UserError as error:
        assert str(error).isprintable()
    finally:
        (store / which).write_bytes(content[which])


@pytest.mark.parametrize("header", [b"PK\x03\x04", b"\x80\x04.", b"\x93NUMPY\x01\x00\x01\x00(", b""])
def test_archives_and_pickles_in_the_place_of_an_array(store: Path, header: bytes) -> None:
    file = store / "test_labels.npy"
    before = file.read_bytes()
    file.write_bytes(header + bytes(100))
    try:
        with pytest.raises(UserError, match="is damaged"):
            _ = Store.open(store).test
    finally:
        file.write_bytes(before)


@cases
@given(near([json.dumps({"event": "round_finished", "round": 1, "loss": None}).encode() + b"\n"] * 2))
@example(b"[" * 10_000)
def test_events(store: Path, lines: bytes) -> None:
    file = store.with_name("events.jsonl")
    file.write_bytes(lines)
    assert all(isinstance(record, dict) for record in read_events(file))


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_folder(tmp_path_factory.mktemp("parquet") / "set", train=20, test=None)


@slow_cases
@given(st.data())
def test_parquet(parquet: Path, data: st.DataObject) -> None:
    [file] = parquet.rglob("*.parquet")
    before = file.read_bytes()
    out = parquet.with_name("store")
    file.write_bytes(data.draw(near([before])))
    try:
        prepare(Request(str(parquet), num_partitions=1, tolerance=20), out)
    except UserError as error:
        assert str(error).isprintable() and not out.exists()
    finally:
        file.write_bytes(before)
        shutil.rmtree(out, ignore_errors=True)


def test_a_label_that_no_class_has_is_damage(store: Path) -> None:
    file = store / "test_labels.npy"
    before = np.load(file)
    try:
        for wrong in (-1, 4, 2**62):
            labels = before.copy()
            labels[3] = wrong
            np.save(file, labels)
            with pytest.raises(UserError, match="labels of no class"):
                _ = Store.open(store).test
    finally:
        np.save(file, before)
