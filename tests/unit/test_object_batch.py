"""Several objects in one call: what goes in comes out, within a bound, and a stock SuperLink is left in peace."""

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto import message_pb2
from flwr.superlink.servicer.runtime import runtime_handlers

from app import object_batch
from app.fleet import object_batches


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


class _State:
    """Holds objects as Flower's state does."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.object_store = SimpleNamespace(delete=self.deleted.append)

    def get_object(self, _run: int, name: str) -> bytes | None:
        return self.objects.get(name)

    def store_object(self, _run: int, _session: str, name: str, content: bytes) -> bool:
        self.objects[name] = content
        return True


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("pull_object", "push_object", "confirm_message_received"):
        monkeypatch.setattr(runtime_handlers, name, getattr(runtime_handlers, name))
    assert object_batches.install()
    return runtime_handlers


def test_the_superlink_stores_hands_out_and_confirms_several_objects(handlers: Any) -> None:
    state, task, node = _State(), SimpleNamespace(run_id=1), {"node_id": 1}
    objects = _objects(b"one", b"two")
    names = ",".join(name for name, _ in objects)
    push = message_pb2.PushObjectRequest(
        node=node, run_id=1, session_id="s", object_id=names, object_content=object_batch.encode(objects)
    )
    assert handlers.push_object(push, state, task).stored and state.objects == dict(objects)
    unknown = hashlib.sha256(b"three").hexdigest()
    pull = message_pb2.PullObjectRequest(node=node, run_id=1, object_id=f"{names},{unknown},")
    assert object_batch.decode(handlers.pull_object(pull, state, task).object_content) == dict(objects)
    confirm = message_pb2.ConfirmMessageReceivedRequest(node=node, run_id=1, message_object_id=names)
    handlers.confirm_message_received(confirm, state, task)
    assert state.deleted == [name for name, _ in objects]


def test_a_call_for_one_object_is_flowers_own(handlers: Any) -> None:
    state, task = _State(), SimpleNamespace(run_id=1)
    ((name, content),) = _objects(b"one")
    state.objects[name] = content
    request = message_pb2.PullObjectRequest(node={"node_id": 1}, run_id=1, object_id=name)
    assert handlers.pull_object(request, state, task).object_content == content


def test_a_stock_superlink_is_recognised_and_asked_as_before() -> None:
    state, task = _State(), SimpleNamespace(run_id=1)
    probe = message_pb2.PullObjectRequest(node={"node_id": 1}, run_id=1, object_id=object_batch.SEPARATOR)
    assert not runtime_handlers.pull_object(probe, state, task).object_found
