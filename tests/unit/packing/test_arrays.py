"""A model's weights travel as one array, exactly, and nothing malformed gets past it."""

import json
import pickle
import struct

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from app.learning import weights
from app.learning.model import build_model
from app.packing import arrays as packing
from app.settings import RunSettings

MODEL = build_model(RunSettings(), (3, 32, 32), 10)


def test_packing_is_exact_and_keeps_the_order() -> None:
    sent = weights.state_arrays(MODEL)
    received = packing.unpacked(packing.packed(RecordDict({packing.ARRAYS: sent}))).array_records[
        packing.ARRAYS
    ]
    assert list(received) == list(sent) == list(MODEL.state_dict())
    for name, array in sent.items():
        np.testing.assert_array_equal(received[name].numpy(), array.numpy())


def test_a_packed_message_has_few_objects_and_is_hardly_larger_than_the_model() -> None:
    arrays = weights.get_arrays(MODEL)
    packed = packing.pack(arrays)
    config = ConfigRecord({"server-round": 1})
    content = RecordDict({packing.PACKED: packed, "config": config})
    assert len(get_all_nested_objects(content)) == 5  # each object costs a call; stock Flower has 23 here
    assert (
        len(get_all_nested_objects(RecordDict({"arrays": weights.state_arrays(MODEL), "config": config})))
        == 23
    )
    assert weights.count_bytes(arrays) == 4 * 62_006
    assert sum(len(o.deflate()) for o in get_all_nested_objects(content).values()) <= 1.05 * 4 * 62_006


def test_half_precision_halves_the_bytes_and_arrives_as_float32() -> None:
    arrays = weights.get_arrays(MODEL)
    packed = packing.pack(arrays, "float16")
    assert len(packed["model"].data) <= 1.05 * 2 * 62_006
    for name, array in packing.unpack(packed).items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, arrays[name], rtol=1e-3, atol=1e-6)


def test_float64_of_an_average_travels_as_float32() -> None:
    packed = packing.pack({"a": np.arange(4, dtype=np.float64), "n": np.array(3, dtype=np.int64)})
    assert {name: str(array.dtype) for name, array in packing.unpack(packed).items()} == {
        "a": "float32",
        "n": "int64",
    }


def record_of(content: bytes, name: str = "model", stype: str = "safetensors") -> ArrayRecord:
    return ArrayRecord({name: Array("uint8", (len(content),), stype, content)})


def content_of(record: ArrayRecord) -> bytes:
    return record["model"].data


def named(names: object) -> bytes:
    """A file of the arrays a and b whose `names` are something else."""
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.zeros((), np.float32)}
    return save(arrays, metadata={"names": names if isinstance(names, str) else json.dumps(names)})


CONTENT = content_of(packing.pack({"a": np.ones((2, 3), np.float32), "b": np.zeros((), np.float32)}))


@pytest.mark.parametrize(
    "record",
    [
        ArrayRecord(),
        ArrayRecord({**record_of(CONTENT), "more": Array(np.ones(2))}),
        record_of(CONTENT, name="arrays"),
        record_of(CONTENT, stype="numpy.ndarray"),
        *map(
            record_of,
            [
                b"",
                b"\x00" * 64,
                CONTENT[:-1],
                CONTENT + b"x",
                struct.pack("<Q", 2**62) + CONTENT[8:],
                CONTENT.replace(b"[2,3]", b"[3,3]"),
                save({"a": np.ones(2)}),
                save({"a": np.ones(2)}, metadata={"name": "[]"}),
                save({"1": np.ones(2)}, metadata={"names": "[1]"}),
                *map(
                    named, [["a"], ["a", "a"], ["a", "c"], ["a", "b", "b"], [1, 2], {}, None, "ab", "[", "7"]
                ),
            ],
        ),
    ],
)
def test_a_malformed_record_is_refused(record: ArrayRecord) -> None:
    assert list(packing.unpack(record_of(named(["b", "a"])))) == ["b", "a"]
    with pytest.raises(ValueError):
        packing.unpack(record)


def test_a_header_that_would_take_gigabytes_to_parse_is_not_parsed() -> None:
    with pytest.raises(ValueError, match="longer than any model needs"):
        packing.unpack(record_of(named([{}] * (6 << 20))))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_bytes_are_refused_or_harmless(data: st.DataObject) -> None:
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrays = packing.unpack(record_of(bytes(content)))
    except ValueError:
        return
    assert len(arrays) == 2 and sorted(arrays) == sorted(load(bytes(content)))


def test_a_large_model_travels_in_pieces_that_the_superlink_takes() -> None:
    arrays = {name: np.random.rand(1 << 20).astype(np.float32) for name in "abcdefghijklmnopqr"}  # 72 MiB
    record = packing.pack(arrays)
    objects = get_all_nested_objects(record)
    assert max(len(each.deflate()) for each in objects.values()) < 8 << 20
    contents = {name: each.deflate() for name, each in objects.items()}
    again = inflate_object_from_contents(record.object_id, contents)
    assert isinstance(again, ArrayRecord)
    for name, array in packing.unpack(again).items():
        np.testing.assert_array_equal(array, arrays[name])
    half = packing.pack(arrays, "float16")
    assert len(content_of(half)) < 0.51 * len(content_of(record))


def test_our_array_is_flowers_to_anyone_who_looks() -> None:
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    ours, flowers = packing.to_record({"a": numbers})["a"], Array(numbers)
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == ("float32", (2, 3), flowers.stype, flowers.data)
    assert ours.object_id == flowers.object_id and ours.deflate() == flowers.deflate()
    ours.numpy()[:] = 0  # a strategy may write into what it was given
    np.testing.assert_array_equal(ours.numpy(), numbers)
    again = pickle.loads(pickle.dumps(ours))  # as Ray sends it
    assert type(again) is Array and again == flowers


def test_an_unreadable_flower_array_is_a_value_error() -> None:
    record = ArrayRecord({"a": Array("float32", (2,), "numpy.ndarray", b"nonsense")})
    with pytest.raises(ValueError):
        packing.from_record(record)
