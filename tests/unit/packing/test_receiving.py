"""A client may send any bytes as its reply: what cannot be read is an error of that client, and no more."""

import hashlib
import json
import os
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid
from hypothesis import given, settings
from hypothesis import strategies as st

from app.packing import transport
from app.packing.receiving import _small_enough, collect, confirm
from app.packing.transport import size_of

LIMIT = 1024 * 1024
Sent = tuple[Message, ObjectTree, dict[str, bytes]]


def metadata(asked: str = "asked") -> Metadata:
    return Metadata(
        run_id=1, message_id="", src_node_id=7, dst_node_id=1, reply_to_message_id=asked, group_id="1",
        created_at=time.time(), ttl=60.0, message_type="train",
    )  # fmt: skip


def whole(content: RecordDict | Error, asked: str = "asked") -> Sent:
    """A reply as Flower sends it."""
    given = {"content": content} if isinstance(content, RecordDict) else {"error": content}
    message = make_message(metadata(asked), **given)  # type: ignore[arg-type]
    objects = {name: thing.deflate() for name, thing in get_all_nested_objects(message).items()}
    return message, get_object_tree(message), objects


def forged(kind: str, body: bytes, children: list[ObjectTree], objects: dict[str, bytes]) -> Sent:
    """A reply whose outermost object is made by hand."""
    content = f"{kind} {','.join(child.object_id for child in children)} {len(body)}".encode() + b"\0" + body
    name = hashlib.sha256(content).hexdigest()
    tree = ObjectTree(object_id=name, children=children)
    return make_message(metadata(), content=RecordDict()), tree, objects | {name: content}


class SuperLink:
    """The Runtime API with these replies; it hands each out once."""

    def __init__(self, *sent: Sent) -> None:
        self.objects = {name: content for _, _, objects in sent for name, content in objects.items()}
        self.headers: list[Any] = []
        self.trees = [tree for _, tree, _ in sent]
        self.confirmed: list[str] = []
        for message, tree, _ in sent:
            message.metadata.__dict__["_message_id"] = tree.object_id
            self.headers.append(message_to_proto(message))

    def PullMessages(self, _request: Any) -> Any:
        return SimpleNamespace(messages_list=self.headers, message_object_trees=self.trees)

    def PullObject(self, request: Any) -> Any:
        content = self.objects.get(request.object_id)
        return SimpleNamespace(
            object_found=content is not None, object_available=True, object_content=content
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.confirmed.append(request.message_object_id)


def replies_of(superlink: SuperLink) -> list[tuple[Message, int]]:
    grid = HttpGrid(token="token")
    grid._client = cast(Any, superlink)
    grid.set_run(Run.create_empty(1))
    replies = collect(grid, ["asked"], LIMIT)
    confirm(grid, [reply for reply, _ in replies])
    return replies


def only(sent: Sent) -> Message:
    ((message, _),) = replies_of(SuperLink(sent))
    assert message.metadata.reply_to_message_id == "asked"
    assert message.metadata.src_node_id == 7
    return message


def refusal(sent: Sent) -> str:
    """Why a reply was not taken; the good one that came with it must be."""
    superlink = SuperLink(whole(RecordDict(), "first"), sent, whole(RecordDict(), "last"))
    first, bad, last = (message for message, _ in replies_of(superlink))
    assert first.has_content() and last.has_content()
    assert [message.metadata.reply_to_message_id for message in (first, bad, last)] == [
        "first",
        "asked",
        "last",
    ]
    assert superlink.confirmed == [tree.object_id for tree in superlink.trees], "it stays on the SuperLink"
    return bad.error.reason or ""


def test_a_good_reply_comes_whole_and_is_measured() -> None:
    values = np.arange(1000, dtype=np.float32)
    content = RecordDict(
        {
            "arrays": ArrayRecord({"a": Array(values)}),
            "metrics": MetricRecord({"num-examples": 3}),
            "packed": ConfigRecord({"bytes": bytes(500)}),
        }
    )
    ((message, size),) = replies_of(SuperLink(whole(content)))
    assert np.array_equal(message.content.array_records["arrays"]["a"].numpy(), values)
    assert message.content.metric_records["metrics"]["num-examples"] == 3
    assert size > 4500
    assert 4500 < size_of(message) < size


def test_an_error_reply_stays_one() -> None:
    assert only(whole(Error(7, "app not allowed"))).error.reason == "app not allowed"


def test_the_superlinks_word_counts_for_what_a_reply_answers() -> None:
    header, _, _ = whole(RecordDict())
    _, tree, objects = whole(RecordDict(), asked="a message to another client")
    assert only((header, tree, objects)).has_content()


def test_things_that_are_no_reply() -> None:
    metrics = MetricRecord({"a": 1})
    tree, objects = get_object_tree(metrics), {metrics.object_id: metrics.deflate()}
    assert "it is a MetricRecord" in refusal((whole(RecordDict())[0], tree, objects))
    assert "cannot be read" in refusal(forged("Message", b"", [tree], objects))
    assert "cannot be read" in refusal(forged("Message", b"\xff" * 100, [], {}))
    assert "cannot be read" in refusal(forged("Evil", b"", [], {}))
    message, tree, objects = whole(RecordDict())
    bare = ObjectTree(object_id=tree.object_id)
    assert "cannot be read" in refusal((message, bare, objects)), "the tree hides a part"


def test_a_reply_of_which_a_part_is_missing() -> None:
    message, tree, objects = whole(RecordDict())
    lost = SuperLink((message, tree, {tree.object_id: objects[tree.object_id]}))
    ((reply, _),) = replies_of(lost)
    assert "did not arrive as a whole" in (reply.error.reason or "")


def test_a_reply_that_is_larger_than_makes_sense() -> None:
    packed = ConfigRecord({"safetensors": bytes(LIMIT)})
    assert f"more than the {LIMIT} that make sense" in refusal(whole(RecordDict({"packed": packed})))


def test_a_model_as_large_as_allowed_is_taken() -> None:
    size = LIMIT // 2 - 2000  # it counts as it came and as it unfolds
    array = Array("uint8", (size,), "safetensors", os.urandom(size))
    assert only(whole(RecordDict({"packed": ArrayRecord({"model": array})}))).has_content()


def test_only_what_fits_into_a_batch_is_asked_for_together() -> None:
    def listed(size: int) -> list[str]:
        array = Array("uint8", (size,), "safetensors", os.urandom(size))
        content = RecordDict(
            {"packed": ArrayRecord({"model": array}), "metrics": MetricRecord({"num-examples": 3})}
        )
        _, tree, objects = whole(content)
        return [objects[name].split()[0].decode() for name in _small_enough(tree)]

    others = ["Array", "ArrayRecord", "MetricRecord", "RecordDict", "Message"]
    assert listed(1000) == ["ArrayChunk", *others]
    assert listed(12 << 20) == others, "its pieces would not fit, and be read in vain"


def test_a_small_reply_that_unfolds_to_a_large_one() -> None:
    """An array is a list of its chunks, and may name one chunk a million times."""
    message, tree, objects = whole(RecordDict({"arrays": ArrayRecord({"a": Array(np.zeros(1000))})}))
    (old,) = (name for name, content in objects.items() if content.startswith(b"Array "))
    head, _, body = objects.pop(old).partition(b"\0")
    fields = json.loads(body) | {"arraychunk_ids": [0] * 10_000_000}
    body = json.dumps(fields, separators=(",", ":")).encode()[: LIMIT // 2].rsplit(b",", 1)[0] + b"]}"
    content = head.rpartition(b" ")[0] + b" " + str(len(body)).encode() + b"\0" + body
    node = tree
    while node.object_id != old:
        node = node.children[0]
    objects[old] = content  # the hash is the SuperLink's to check, and it lets a bad id through nowhere
    reason = refusal((message, tree, objects))
    assert int(reason.split("holds ")[1].split()[0]) > 1_000_000_000


@settings(deadline=None)
@given(
    st.sampled_from(["Message", "RecordDict", "ArrayRecord", "Array", "ConfigRecord"]),
    st.binary(max_size=200),
)
def test_no_bytes_end_the_run(kind: str, body: bytes) -> None:
    ((reply, _),) = replies_of(SuperLink(forged(kind, body, [], {})))
    assert reply.has_error()


def test_a_simulations_replies_are_taken_as_they_are() -> None:
    message, _, _ = whole(RecordDict({"packed": ConfigRecord({"bytes": bytes(500)})}))
    simulation = SimpleNamespace(pull_messages=lambda _ids: [message])
    ((reply, size),) = transport.collect(cast(Any, simulation), ["asked"], LIMIT)
    assert reply is message and 500 < size < 700
