"""Several objects in one call of the ServerApp; a stock SuperLink is asked as before."""

import hashlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto import message_pb2
from flwr.superlink.servicer.runtime import runtime_handlers

from app.fleet.patches.registry import select
from app.fleet.patches.superlink.object_batches import PATCH
from app.packing import object_batches as object_batch


def _objects(*contents: bytes) -> list[tuple[str, bytes]]:
    return [(hashlib.sha256(content).hexdigest(), content) for content in contents]


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
def handlers() -> Iterator[Any]:
    with select([PATCH], None).install():
        yield runtime_handlers


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
