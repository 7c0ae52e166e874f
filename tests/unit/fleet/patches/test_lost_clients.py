"""What a node was handed and has not answered when it asks for work is handed out once more, or lost."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.utils import check_node_availability_for_in_message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

from app.fleet.patches.lost_clients import InHand, availability

MESSAGE, REPLY, NODE = "aa" * 32, "bb" * 32, 7


def link() -> tuple[Any, InMemoryObjectStore]:
    """A SuperLink's state and store that hold one message, which was handed out."""
    store = InMemoryObjectStore()
    store.preregister(1, ObjectTree(object_id=MESSAGE))
    message = SimpleNamespace(metadata=SimpleNamespace(delivered_at="now"))
    state = SimpleNamespace(
        lock=threading.RLock(),
        message_ins_store={MESSAGE: message},
        message_res_store={},
        message_ins_id_to_message_res_id={},
    )
    return state, store


def message_to(node: int) -> Message:
    """A message of the ServerApp to a node."""
    metadata = Metadata(
        run_id=1, message_id="", src_node_id=1, dst_node_id=node, reply_to_message_id="", group_id="",
        created_at=0.0, ttl=1e9, message_type="train",
    )  # fmt: skip
    return make_message(metadata=metadata, content=RecordDict())


def in_hand() -> InHand:
    hand = InHand()
    hand.take(NODE, MESSAGE)
    return hand


def test_a_message_whose_objects_never_came_through_is_handed_out_once_more() -> None:
    hand, (state, store) = in_hand(), link()
    hand.settle(NODE, state, store)
    assert state.message_ins_store[MESSAGE].metadata.delivered_at == "" and not hand.lost
    hand.take(NODE, MESSAGE)
    hand.settle(NODE, state, store)
    assert hand.lost == {MESSAGE}, "and then no more"


def test_a_message_that_had_come_through_is_lost() -> None:
    hand, (state, store) = in_hand(), link()
    store.delete(MESSAGE)  # as the node's confirmation does
    hand.settle(NODE + 1, state, store)
    assert not hand.lost, "another node has nothing to do with it"
    hand.settle(NODE, state, store)
    assert hand.lost == {MESSAGE} and state.message_ins_store[MESSAGE].metadata.delivered_at == "now"


@pytest.mark.parametrize("complete", [True, False])
def test_a_reply_counts_when_all_of_it_has_come(complete: bool) -> None:
    hand, (state, store) = in_hand(), link()
    store.delete(MESSAGE)
    reply = message_to(1)
    tree = get_object_tree(reply)
    store.preregister(1, tree)
    if complete:
        for name, content in get_all_nested_objects(reply).items():
            store.put(name, content.deflate())
    state.message_res_store[tree.object_id] = reply
    state.message_ins_id_to_message_res_id[MESSAGE] = tree.object_id
    hand.settle(NODE, state, store)
    assert hand.lost == (set() if complete else {MESSAGE})
    assert (MESSAGE in state.message_ins_id_to_message_res_id) is complete


def test_the_serverapp_is_told_of_a_lost_message_once_and_of_an_offline_node_later() -> None:
    messages = {name: message_to(node) for name, node in (("lost", 1), ("gone", 2), ("dead", 3))}
    hand, inquired = InHand(), set(messages)
    hand.lost.add("lost")
    check = availability(check_node_availability_for_in_message, hand)
    replies = check(inquired, messages, {1: 100.0, 2: 90.0, 3: 10.0}, 100.0)
    assert set(replies) == {"lost", "dead"} and all(reply.has_error() for reply in replies.values())
    assert inquired == {"gone"} and not hand.lost
