"""A model's weights travel as one record, exactly, and nothing malformed gets past it."""

import struct

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UserError
from app.learning import arrays as codec
from app.learning.arrays import check_personal
from app.learning.model import CNN, build_model
from app.settings import RunSettings

MODEL = build_model(RunSettings(), (3, 32, 32), 10)


def test_packing_is_exact_and_keeps_the_order() -> None:
    sent = codec.state_arrays(MODEL)
    received = codec.unpack_arrays(codec.pack_arrays(sent))
    assert list(received) == list(sent) == list(MODEL.state_dict())
    for name, array in sent.items():
        np.testing.assert_array_equal(received[name].numpy(), array.numpy())


def test_a_packed_message_has_few_objects_and_is_hardly_larger_than_the_model() -> None:
    arrays = codec.get_arrays(MODEL)
    packed = codec.pack(arrays)
    config = ConfigRecord({"server-round": 1})
    content = RecordDict({codec.PACKED: packed, "config": config})
    assert len(get_all_nested_objects(content)) == 3  # each object costs a call; stock Flower has 23 here
    assert (
        len(get_all_nested_objects(RecordDict({"arrays": codec.state_arrays(MODEL), "config": config}))) == 23
    )
    assert codec.count_bytes(arrays) == 4 * 62_006
    assert sum(len(o.deflate()) for o in get_all_nested_objects(content).values()) <= 1.05 * 4 * 62_006


def test_half_precision_halves_the_bytes_and_arrives_as_float32() -> None:
    arrays = codec.get_arrays(MODEL)
    packed = codec.pack(arrays, "float16")
    assert len(packed.deflate()) <= 1.05 * 2 * 62_006
    for name, array in codec.unpack(packed).items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, arrays[name], rtol=1e-3, atol=1e-6)


def test_float64_of_an_average_travels_as_float32() -> None:
    packed = codec.pack({"a": np.arange(4, dtype=np.float64), "n": np.array(3, dtype=np.int64)})
    assert {name: str(array.dtype) for name, array in codec.unpack(packed).items()} == {
        "a": "float32",
        "n": "int64",
    }


GOOD = codec.pack({"a": np.ones((2, 3), np.float32), "b": np.zeros((), np.float32)})
CONTENT = GOOD["safetensors"]
assert isinstance(CONTENT, bytes)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"safetensors": b"", "names": []},
        {"safetensors": b"\x00" * 64, "names": []},
        {"safetensors": CONTENT[:-1], "names": ["a", "b"]},
        {"safetensors": CONTENT + b"x", "names": ["a", "b"]},
        {"safetensors": struct.pack("<Q", 2**62) + CONTENT[8:], "names": ["a", "b"]},
        {"safetensors": CONTENT, "names": ["a"]},
        {"safetensors": CONTENT, "names": ["a", "a"]},
        {"safetensors": CONTENT, "names": ["a", "c"]},
        {"safetensors": CONTENT, "names": "ab"},
        {"safetensors": CONTENT, "names": [1, 2]},
        {"safetensors": "text", "names": ["a", "b"]},
        {"safetensors": CONTENT.replace(b"[2,3]", b"[3,3]"), "names": ["a", "b"]},
    ],
)
def test_a_malformed_record_is_refused(record: dict[str, bytes | str | list[str]]) -> None:
    with pytest.raises(ValueError):
        codec.unpack_arrays(ConfigRecord(record))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_bytes_are_refused_or_harmless(data: st.DataObject) -> None:
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrays = codec.unpack(ConfigRecord({"safetensors": bytes(content), "names": ["a", "b"]}))
    except ValueError:
        return
    assert list(arrays) == ["a", "b"]


def test_an_unreadable_flower_array_is_a_value_error() -> None:
    record = ArrayRecord({"a": Array("float32", (2,), "numpy.ndarray", b"nonsense")})
    with pytest.raises(ValueError):
        codec.from_record(record)


def test_personal_layers_are_not_sent_and_not_overwritten() -> None:
    model = build_model(RunSettings(), (3, 32, 32), 10)
    mine = model.get_parameter("fc3.weight").detach().clone()
    shared = codec.get_arrays(model, exclude=("fc3",))
    assert "fc3.weight" not in shared and "fc3.bias" not in shared and "fc2.weight" in shared
    codec.set_arrays(model, {name: array + 1 for name, array in shared.items()}, exclude=("fc3",))
    assert torch.equal(model.get_parameter("fc3.weight"), mine)
    np.testing.assert_array_equal(codec.get_arrays(model)["fc2.bias"], shared["fc2.bias"] + 1)
    assert not codec.is_personal("fc30.weight", ("fc3",))


@pytest.mark.parametrize(
    ("prefixes", "words"),
    [
        (("fc9",), "the model has no layer 'fc9'; it has conv1, conv2, fc1, fc2, fc3"),
        (("fc3", "fc"), "the model has no layer 'fc'"),
        (("conv1", "conv2", "fc1", "fc2", "fc3"), "nothing would be left to learn together"),
    ],
)
def test_personal_layers_that_make_no_sense_are_refused(prefixes: tuple[str, ...], words: str) -> None:
    model = CNN((3, 32, 32), 10)
    check_personal(model, ("fc3", "fc2.bias"))
    check_personal(model, ())
    with pytest.raises(UserError, match=words):
        check_personal(model, prefixes)


def test_setting_arrays_that_do_not_fit_leaves_the_model_alone() -> None:
    model = build_model(RunSettings(), (3, 32, 32), 10)
    before = codec.get_arrays(model)
    wrong = {**before, "fc1.bias": np.zeros(3, np.float32)}
    for bad in (wrong, {"conv1.bias": before["conv1.bias"]}, {**before, "more": before["fc1.bias"]}):
        with pytest.raises(ValueError):
            codec.set_arrays(model, {n: a + 1 if n != "fc1.bias" else a for n, a in bad.items()})
    for name, array in codec.get_arrays(model).items():
        np.testing.assert_array_equal(array, before[name])
    with pytest.raises(ValueError):
        codec.set_list(model, codec.get_list(model)[:-1])


def test_arrays_do_not_follow_the_model_and_ignore_its_memory_format() -> None:
    model = build_model(RunSettings(), (3, 32, 32), 10)
    before = codec.get_arrays(model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    after = codec.get_arrays(model)
    with torch.no_grad():
        model.get_parameter("conv2.weight").zero_()
    assert before["conv2.weight"].any() and after["conv2.weight"].flags.c_contiguous
    np.testing.assert_array_equal(before["conv2.weight"], after["conv2.weight"])


def test_batchnorm_counters_do_not_travel() -> None:
    names = list(codec.state_tensors(build_model(RunSettings(model="resnet18"), (3, 32, 32), 10)))
    assert "bn1.running_var" in names
    assert not [name for name in names if "num_batches_tracked" in name]
