"""Several objects in one batch: what goes in comes out, within a bound."""

import hashlib

import pytest

from app.packing import object_batches as object_batch


def _objects(*contents: bytes) -> list[tuple[str, bytes]]:
    return [(hashlib.sha256(content).hexdigest(), content) for content in contents]


def test_what_is_encoded_comes_back() -> None:
    objects = _objects(b"a", b"", b"c" * 100_000)
    assert object_batch.decode(object_batch.encode(objects)) == dict(objects)


@pytest.mark.parametrize("cut", [1, 39, 41])
def test_a_batch_that_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="cut short"):
        object_batch.decode(object_batch.encode(_objects(b"content"))[:cut])


def test_batches_are_bounded_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_batch, "LARGEST_BATCH", 10)
    objects = _objects(b"1234", b"12345", b"123", b"x" * 50, b"1")
    made = list(object_batch.batches(objects))
    assert [content for batch in made for _, content in batch] == [content for _, content in objects]
    assert all(len(batch) == 1 or sum(len(content) for _, content in batch) <= 10 for batch in made)
