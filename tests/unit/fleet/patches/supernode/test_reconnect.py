"""Which errors of a call pass by themselves, and how a client waits for that."""

import threading
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.runtime_pb2 import PullPendingTasksRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState
from flwr.supernode.servicer.runtime.runtime_handlers import pull_pending_tasks

from app.fleet.patches.registry import select
from app.fleet.patches.supernode.reconnect import CHANNEL, LONGEST_WAIT_S, PATCH, is_passing
from app.packing import internals


class Failed(grpc.RpcError):  # type: ignore[misc]
    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        self.code, self.details = lambda: code, lambda: details


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (Failed(grpc.StatusCode.UNAVAILABLE, "Connection refused"), True, True),
        (Failed(grpc.StatusCode.UNAVAILABLE, "Tls handshake failed"), False, True),
        (Failed(grpc.StatusCode.CANCELLED), True, True),
        (Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"), True, True),
        (Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max"), False, False),
        (Failed(grpc.StatusCode.FAILED_PRECONDITION, "Refused: a is online already"), True, True),
        (Failed(grpc.StatusCode.FAILED_PRECONDITION, "Refused: its key is not enrolled"), False, False),
        (Failed(grpc.StatusCode.UNAUTHENTICATED, "Invalid node ID"), False, False),
    ],
)
def test_what_passes_by_itself_is_tried_again(error: Failed, before: bool, after: bool) -> None:
    assert is_passing(error, connected=False) is before
    assert is_passing(error, connected=True) is after


def context() -> Any:
    return SimpleNamespace(superlink="127.0.0.1:1", lost_after=15, latest_error="", exit_status=0)


def test_a_client_tries_without_an_end_and_waits_a_bounded_time() -> None:
    here = context()
    with select([PATCH], here).install():
        invoker = internals.find(
            "flwr.supernode.start_client_internal:_make_fleet_connection_retry_invoker"
        )()
    waits: list[float] = []
    invoker.wait_function, here.exit_status, here.latest_error = waits.append, 75, "an old reason"

    def call() -> str:
        if len(waits) < 200:
            raise Failed(grpc.StatusCode.UNAVAILABLE)
        return "answer"

    assert invoker.invoke(call) == "answer" and max(waits) <= LONGEST_WAIT_S
    assert (here.exit_status, here.latest_error) == (0, ""), "what was wrong is over"


def test_heartbeats_come_more_often_than_the_server_waits_for_them_also_when_some_fail() -> None:
    beats, enough = [], threading.Event()

    def beat() -> bool:
        beats.append(1)
        if len(beats) == 3:
            enough.set()
        return False

    here = context()
    here.lost_after = 0.05
    with select([PATCH], here).install():
        connection = internals.find("flwr.client.grpc_rere_client.connection")
        assert abs(connection.HEARTBEAT_DEFAULT_INTERVAL - 0.05 / 1.5) < 1e-9
        sender = connection.HeartbeatSender(beat)
    sender.start()
    assert enough.wait(20)
    sender.stop()


def test_the_channel_comes_back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr(grpc, "insecure_channel", lambda target, options: found.append(options))
    with select([PATCH], context()).install():
        internals.find("flwr.supercore.grpc:create_channel")("127.0.0.1:1", insecure=True)
    assert set(CHANNEL) <= set(found[0]) and len(found[0]) > len(CHANNEL)


@pytest.mark.parametrize("cut", ["pull_object", "confirm_message_received"])
def test_a_message_whose_run_goes_while_it_is_fetched_leaves_nothing_behind(
    cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task would wait for the rest of it for ever, and every later message behind it."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 7)
    store = InMemoryObjectStore()
    state = InMemoryNodeState(store)
    state.set_node_id(1)
    state.store_run(Run.create_empty(7))
    message = Message(RecordDict({"config": ConfigRecord({"a": 1})}), 1, "train")
    message.metadata.__dict__ |= {"_run_id": 7, "_message_id": message.object_id}
    objects = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}

    def gone(*_: Any) -> bytes:
        raise RunNotRunningException

    calls = {"pull_object": lambda _run, name: objects[name], "confirm_message_received": lambda *_: None}
    with select([PATCH], context()).install():
        pull = internals.find("flwr.supernode.start_client_internal:_pull_and_store_message")
        arguments = {
            "state": state, "object_store": store, "node_config": {}, "get_run": None, "get_fab": None,
            "receive": lambda: (message, get_object_tree(message)), "trusted_entities": None,
        }  # fmt: skip
        assert pull(**arguments, **{**calls, cut: gone}) is None
        assert not state.get_messages() and not pull_pending_tasks(PullPendingTasksRequest(), state).tasks
        assert pull(**arguments, **calls) == 7
        assert (
            len(state.get_messages()) == len(pull_pending_tasks(PullPendingTasksRequest(), state).tasks) == 1
        )
