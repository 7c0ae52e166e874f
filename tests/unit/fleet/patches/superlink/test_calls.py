"""The form of a node's calls."""

import pytest
from flwr.proto import fab_pb2, fleet_pb2, message_pb2

from app.fleet.patches.superlink.calls import LARGEST_HEADER, fault

ID = "ab" * 32


def push(**fields: object) -> fleet_pb2.PushMessagesRequest:
    request = fleet_pb2.PushMessagesRequest(clientapp_runtime_list=[0.5])
    metadata = request.messages_list.add().metadata
    values = {
        "message_id": ID,
        "reply_to_message_id": ID,
        "message_type": "train",
        "created_at": 1.0,
        "ttl": 1.0,
    }
    for name, value in (values | fields).items():
        setattr(metadata, name, value)
    request.message_object_trees.add()
    return request


def test_an_honest_push_passes() -> None:
    assert fault(push()) == fault(push(group_id="1", message_type="train.größe")) == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"message_id": "x"},
        {"reply_to_message_id": "AB" * 32},
        {"group_id": "\n"},
        {"group_id": "a" * 300},
        {"message_type": "a\x1b[2J"},
        {"created_at": float("nan")},
        {"ttl": float("inf")},
    ],
)
def test_a_push_of_another_form_is_refused(fields: dict[str, object]) -> None:
    assert fault(push(**fields))


def test_a_header_is_small() -> None:
    request = push()
    request.messages_list[0].error.reason = "a" * LARGEST_HEADER
    assert fault(request)


@pytest.mark.parametrize("seconds", [[float("nan")], [-1.0], [1e300], [1.0, 1.0]])
def test_a_run_time_is_a_time(seconds: list[float]) -> None:
    request = push()
    request.clientapp_runtime_list[:] = seconds
    assert fault(request)


@pytest.mark.parametrize(
    "text", ["", "x", "AB" * 32, "0x" + "a" * 62, "a_" * 32, "٣" * 64, f"{ID}\n", f"{ID},{ID}"]
)
def test_an_id_is_a_sha256(text: str) -> None:
    for good, bad in (
        (message_pb2.PullObjectRequest(object_id=ID), message_pb2.PullObjectRequest(object_id=text)),
        (message_pb2.PushObjectRequest(object_id=ID), message_pb2.PushObjectRequest(object_id=text)),
        (fab_pb2.GetFabRequest(hash_str=ID), fab_pb2.GetFabRequest(hash_str=text)),
        (
            message_pb2.ConfirmMessageReceivedRequest(message_object_id=ID),
            message_pb2.ConfirmMessageReceivedRequest(message_object_id=text),
        ),
    ):
        assert not fault(good) and fault(bad)
