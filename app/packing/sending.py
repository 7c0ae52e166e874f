"""Sending a phase's messages: their objects in a few calls instead of one each.

Read in flwr 1.39.0: ``superlink/grid/http_grid.py``, whose ``push_messages`` this does with fewer calls.
"""

import weakref
from typing import Any

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_push_object_fn_protobuf
from flwr.superlink.grid.http_grid import HttpGrid

from app.packing.flower import runtime_client, set_message_id
from app.packing.object_batches import SEPARATOR, batches, encode

_understands: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


def takes_batches(grid: HttpGrid) -> bool:
    """Whether the SuperLink takes several objects in a call; asked once per grid."""
    if grid not in _understands:
        probe = PullObjectRequest(node=grid.node, run_id=grid.run.run_id, object_id=SEPARATOR)
        _understands[grid] = bool(runtime_client(grid).PullObject(probe).object_found)
    return _understands[grid]


def push(grid: HttpGrid, messages: list[Message]) -> list[str]:
    """Send ``messages``; their ids in the same order, an empty one for a message that was not taken."""
    if not takes_batches(grid):
        return [name or "" for name in grid.push_messages(messages)]
    client, run_id = runtime_client(grid), grid.run.run_id
    objects: dict[str, Any] = {}
    with no_object_id_recompute():
        for message in messages:
            set_message_id(message, message.object_id)
            objects.update(get_all_nested_objects(message))
        answer = client.PushMessages(
            PushAppMessagesRequest(
                messages_list=[
                    message_to_proto(remove_content_from_message(message)) for message in messages
                ],
                message_object_trees=[get_object_tree(message) for message in messages],
            )
        )
        wanted = set(answer.objects_to_push)
    push_one = make_push_object_fn_protobuf(
        client.PushObject, grid.node, run_id=run_id, session_id=answer.session_id
    )
    contents = ((name, each.deflate()) for name, each in objects.items() if name in wanted)
    for batch in batches(contents):
        if len(batch) == 1:
            push_one(*batch[0])
            continue
        client.PushObject(
            PushObjectRequest(
                node=grid.node,
                run_id=run_id,
                session_id=answer.session_id,
                object_id=SEPARATOR.join(name for name, _ in batch),
                object_content=encode(batch),
            )
        )
    return list(answer.message_ids)
