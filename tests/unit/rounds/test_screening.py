"""Updates that cannot be right are left out of the average, and the rest of the round stands."""

import io
import json
import math
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.metadata import Metadata
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.rounds.screening import Known, length, read_bounds, read_client_names, screen, screen_evaluation

SHAPES = {"conv.weight": (6, 3, 5, 5), "fc.weight": (10, 84), "fc.bias": (10,)}


def model(value: float = 0.5, dtype: str = "float32") -> dict[str, np.ndarray]:
    arrays = {name: np.full(shape, value, dtype) for name, shape in SHAPES.items()}
    arrays["steps"] = np.array(7)
    return arrays


def record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


EXPECTED = record(model(0.0))


def answer(node: int, content: RecordDict | Error) -> Message:
    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=node,
        dst_node_id=1,
        reply_to_message_id="",
        group_id="1",
        created_at=time.time(),
        ttl=60.0,
        message_type="train",
    )
    return Message(content, metadata=metadata)  # type: ignore[call-overload]


def reply(
    node: int = 1,
    arrays: dict[str, np.ndarray] | None = None,
    metrics: dict[str, int | float | list[float]] | None = None,
) -> Message:
    return answer(
        node,
        RecordDict(
            {
                "arrays": record(arrays or model()),
                "metrics": MetricRecord({"num-examples": 4000, "train_loss": 1.5} | (metrics or {})),
            }
        ),
    )


def reason(bad: Message, **settings: Any) -> str:
    """Why `bad` was left out of a round with two good replies, which must both stay."""
    accepted, rejected, _ = screen([reply(1), bad, reply(2)], EXPECTED, **settings)
    assert [message.metadata.src_node_id for message in accepted] == [1, 2]
    assert len(rejected) == 1
    assert rejected[0].node_id == bad.metadata.src_node_id
    return rejected[0].reason


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    arrays = model()
    arrays[name] = change(arrays[name])
    return arrays


def poisoned(value: float, position: int = -1, dtype: str = "float32") -> dict[str, np.ndarray]:
    arrays = model(dtype=dtype)
    arrays["fc.weight"].flat[position] = value
    return arrays


def test_good_replies_pass_untouched() -> None:
    replies = [reply(node) for node in range(1, 11)]
    accepted, rejected, _ = screen(iter(replies), EXPECTED)
    assert accepted == replies
    assert rejected == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 411, -1])
def test_one_value_that_is_not_finite(value: float, position: int) -> None:
    assert reason(reply(3, poisoned(value, position))) == "array fc.weight holds NaN or infinity"


def test_infinities_that_cancel_are_seen() -> None:
    arrays = poisoned(math.inf)
    arrays["fc.weight"].flat[0] = -math.inf
    assert "NaN or infinity" in reason(reply(3, arrays))


def test_the_largest_finite_numbers_are_not_taken_for_infinity() -> None:
    largest = float(np.finfo(np.float32).max)
    accepted, _, _ = screen([reply(1, model(largest))], EXPECTED)
    assert len(accepted) == 1


def test_names() -> None:
    without = model()
    del without["fc.bias"]
    assert reason(reply(3, without)) == "the model it sent lacks fc.bias"
    assert "has unknown evil" in reason(reply(3, model() | {"evil": np.zeros(2, np.float32)}))


def test_shapes_and_types() -> None:
    assert "has shape (84, 10), not (10, 84)" in reason(reply(3, changed("fc.weight", np.transpose)))
    assert "has shape (1, 10), not (10,)" in reason(reply(3, changed("fc.bias", lambda a: a[None])))
    assert "is of type float64, not float32" in reason(
        reply(3, changed("fc.bias", lambda a: a.astype("float64")))
    )
    assert "is of type >f4, not float32" in reason(reply(3, changed("fc.bias", lambda a: a.astype(">f4"))))


def test_column_order_is_the_same_array() -> None:
    accepted, _, _ = screen([reply(1, changed("fc.weight", np.asfortranarray))], EXPECTED)
    assert len(accepted) == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (-4000, "num-examples is -4000"),
        (0, "num-examples is 0"),
        (10**12, "more than the 1000000000 that this client can have"),
        (1.5, "no whole number"),
        (math.nan, "num-examples is not finite"),
        ([4000.0], "no whole number"),
    ],
)
def test_example_counts(count: float, text: str) -> None:
    assert text in reason(reply(3, metrics={"num-examples": count}))


def test_a_bound_on_examples_can_be_set() -> None:
    assert "num-examples is 5001" in reason(
        reply(3, metrics={"num-examples": 5001}), known=Known(enrolled={3: 5000})
    )


def test_a_count_that_jumps_is_left_out_and_not_remembered() -> None:
    seen: dict[int, int] = {}
    screen([reply(1), reply(2)], EXPECTED, seen_examples=seen)
    assert seen == {1: 4000, 2: 4000}
    jump = reply(2, metrics={"num-examples": 40_001})
    accepted, rejected, _ = screen([reply(1), jump], EXPECTED, seen_examples=seen)
    assert len(accepted) == 1
    assert rejected[0].reason == "num-examples is 40001, after 4000 before"
    assert seen[2] == 4000
    growth = reply(2, metrics={"num-examples": 5000})
    assert len(screen([growth], EXPECTED, seen_examples=seen).accepted) == 1
    assert seen[2] == 5000


def test_metrics_that_are_not_finite_or_not_those_of_the_others() -> None:
    assert "train_loss is not finite" in reason(reply(3, metrics={"train_loss": math.nan}))
    assert "history is not finite" in reason(reply(3, metrics={"history": [0.1, math.inf]}))
    assert "not between 0 and 1" in reason(reply(3, metrics={"train_accuracy": 7.0}))
    assert "not those of the other clients" in reason(reply(3, metrics={"surplus": 1.0}))
    assert "not those of the other clients" in reason(reply(3, metrics={"train_loss": [1.0, 2.0]}))


def test_records_that_are_missing_or_too_many() -> None:
    assert "holds the records none" in reason(answer(3, RecordDict()))
    only = RecordDict({"metrics": MetricRecord({"num-examples": 1})})
    assert "instead of arrays, metrics" in reason(answer(3, only))
    good = reply(3).content
    good["more"] = MetricRecord({"a": 1})
    assert "instead of arrays, metrics" in reason(answer(3, good))
    good = reply(3).content
    good["notes"] = ConfigRecord({"a": "b"})
    assert len(screen([answer(3, good)], EXPECTED).accepted) == 1, "a config record harms nobody"


def test_an_error_reply_says_its_reason() -> None:
    assert reason(answer(3, Error(7, "app not allowed"))) == "error 7: app not allowed"


def test_a_second_reply_of_a_client_does_not_count_twice() -> None:
    accepted, rejected, _ = screen([reply(1), reply(1)], EXPECTED)
    assert (len(accepted), len(rejected)) == (1, 1)


def header(shape: object, dtype: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    text = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, text)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.npy", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"random bytes",
        archive(),
        header((10,)) + b"short",
        header((10,)) + bytes(44),
        header((10**12,)) + bytes(40),
        header((-10,)) + bytes(40),
        header((10,), "|O") + bytes(80),
        b"\x93NUMPY\x09\x00" + bytes(100),
    ],
)
def test_bytes_that_are_no_array(data: bytes) -> None:
    message = reply(3)
    arrays = message.content.array_records["arrays"]
    arrays["fc.bias"] = Array("float32", (10,), "numpy.ndarray", data)
    assert "array fc.bias" in reason(message)


def test_pickled_arrays_are_never_opened() -> None:
    message = reply(3)
    message.content.array_records["arrays"]["fc.bias"] = Array("float32", (10,), "pickle", b"\x80\x04.")
    assert "serialised as pickle" in reason(message)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_screening_fail(data: bytes) -> None:
    message = reply(3)
    message.content.array_records["arrays"]["fc.bias"] = Array("float32", (10,), "numpy.ndarray", data)
    accepted, rejected, _ = screen([message], EXPECTED)
    assert (len(accepted), len(rejected)) == (0, 1)


@settings(deadline=None)
@given(st.binary(max_size=200))
@example(b"(")
@example(b"[" * 5000)
def test_no_header_makes_screening_fail(text: bytes) -> None:
    message = reply(3)
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    message.content.array_records["arrays"]["fc.bias"] = Array("float32", (10,), "numpy.ndarray", data)
    assert len(screen([message], EXPECTED).rejected) == 1


def test_nothing_comes_of_nothing() -> None:
    assert screen([], EXPECTED) == ([], [], [])
    assert screen([reply(3, poisoned(math.nan))], EXPECTED).accepted == []


def test_evaluation_replies() -> None:
    def evaluated(node: int, **metrics: float) -> Message:
        values = {"num-examples": 1000, "loss": 1.2, "accuracy": 0.6} | metrics
        return answer(node, RecordDict({"metrics": MetricRecord(values)}))

    accepted, rejected, _ = screen_evaluation(
        [
            evaluated(1),
            evaluated(2, loss=math.nan),
            evaluated(3, accuracy=3.0),
            reply(4),
            evaluated(5, **{"num-examples": -1}),
            answer(6, Error(5, "gone")),
            evaluated(7),
        ],
        names={2: "hospital-b"},
    )
    assert [message.metadata.src_node_id for message in accepted] == [1, 7]
    assert [rejection.client for rejection in rejected] == [
        "hospital-b",
        "node 3",
        "node 4",
        "node 5",
        "node 6",
    ]


def test_the_log_names_the_client(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    logging.getLogger("flwr").addHandler(caplog.handler)
    try:
        screen([reply(3, poisoned(math.nan))], EXPECTED, names={3: "hospital-c"})
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
    assert "Left out the reply of hospital-c: array fc.weight holds NaN or infinity" in caplog.text


def test_what_a_client_writes_cannot_forge_log_lines() -> None:
    evil = {"evil\nINFO : all is well": np.zeros(2, np.float32)}
    text = reason(reply(3, model() | evil))
    assert "\n" not in text
    assert "\n" not in reason(answer(3, Error(0, "a\nb" * 5000)))
    assert len(reason(answer(3, Error(0, "a\nb" * 5000)))) < 500


def test_names_and_bounds_of_clients_come_from_the_registry(tmp_path: Path) -> None:
    registry = tmp_path / "members.json"
    assert read_client_names(None) == {} and read_client_names(registry) == {}
    registry.write_text(json.dumps({"17": {"name": "hospital-a", "max-examples": 500}, "18": {"name": "b"}}))
    assert read_client_names(registry) == {17: "hospital-a", 18: "b"}
    assert read_bounds(registry) == {17: 500}


@pytest.mark.parametrize(
    "text", ["{broken", "[]", "{}", '{"x": {}}', '{"1": "a"}', "\xff", "[" * 10_000, "1e999"]
)
def test_a_registry_that_cannot_be_read_costs_no_run(tmp_path: Path, text: str) -> None:
    registry = tmp_path / "members.json"
    registry.write_bytes(text.encode("latin-1"))
    assert read_client_names(registry) == {} and read_bounds(registry) == {}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_the_length_of_an_update_is_exact_and_does_not_overflow(dtype: str) -> None:
    start = {"w": np.linspace(-1, 1, 200_000).reshape(400, 500).astype(dtype), "steps": np.array(3)}
    moved = {"w": np.asfortranarray(start["w"] + np.asarray(0.25, dtype)), "steps": np.array(2**62)}
    exact = float(np.linalg.norm(moved["w"].astype(float) - start["w"].astype(float)))
    assert length(record(moved), record(start)) == pytest.approx(exact, rel=1e-4)
    largest = float(np.finfo(dtype).max)
    far = {"w": np.full((400, 500), largest, dtype), "steps": np.array(3)}
    expected = math.inf if dtype == "float64" else largest * math.sqrt(200_000)
    assert length(record(far), record(start)) == pytest.approx(expected, rel=1e-3)


def test_an_update_out_of_all_proportion_is_no_result_of_training() -> None:
    start = record(model(0.5))
    replies = [reply(1, model(0.51)), reply(2, model(0.52)), reply(3, model(3e38)), reply(4, model(0.5))]
    accepted, rejected, _ = screen(replies, start)
    assert [message.metadata.src_node_id for message in accepted] == [1, 2, 4]
    assert rejected[0].reason == "its update is 1.08e+40 long, more than the plausible 7.21"
