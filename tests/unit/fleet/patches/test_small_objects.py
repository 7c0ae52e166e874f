"""Small objects ride with their message, and whatever comes from outside is checked."""

import hashlib

import pytest

from app.fleet.patches import small_objects
from app.packing.object_batches import decode


def _object(content: bytes) -> tuple[str, bytes]:
    return hashlib.sha256(content).hexdigest(), content


def test_large_and_missing_objects_and_what_does_not_fit_are_left_out() -> None:
    large = _object(b"x" * (small_objects.LARGEST_OBJECT + 1))
    many = [_object(bytes([number]) * 1000) for number in range(10)]
    payload = small_objects.those_that_fit([large, (many[0][0], None), (many[1][0], b""), *many[2:]])
    assert len(payload) <= small_objects.LARGEST_TOTAL
    assert set(decode(payload)) == {object_id for object_id, _ in many[2:5]}


@pytest.mark.parametrize("cut", [1, 39, 41])
def test_noise_in_the_metadata_is_no_object(cut: int) -> None:
    payload = small_objects.those_that_fit([_object(b"content")])
    assert small_objects.received([(small_objects.OBJECTS, payload)]) == dict([_object(b"content")])
    assert small_objects.received([(small_objects.OBJECTS, payload[:cut])]) == {}
