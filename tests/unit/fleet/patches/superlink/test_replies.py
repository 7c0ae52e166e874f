"""Replies of nodes: a tree that cannot be right is refused, and no node reaches another's objects."""

import hashlib

import pytest
from flwr.app import Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.proto.message_pb2 import ObjectTree

from app.fleet.patches.superlink.replies import (
    DEEPEST,
    MIB,
    MOST_OBJECTS,
    ObjectStore,
    RefusedReply,
    Replies,
    Reply,
    announced,
)


def made(kind: str, body: bytes, *children: str) -> tuple[str, bytes]:
    """Id and content of an object."""
    content = f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body
    return hashlib.sha256(content).hexdigest(), content


LEAF, LEAF_CONTENT = made("ArrayChunk", b"leaf")
ROOT, ROOT_CONTENT = made("Message", b"root", LEAF)
TREE = ObjectTree(object_id=ROOT, children=[ObjectTree(object_id=LEAF)])


def tree(name: str, *children: ObjectTree) -> ObjectTree:
    return ObjectTree(object_id=hashlib.sha256(name.encode()).hexdigest(), children=children)


def header(message_id: str, answers: str) -> Message:
    metadata = Metadata(7, message_id, 1, 1, answers, "", 0.0, 60.0, "train")
    return make_message(metadata, content=RecordDict())


def reply(node: int, answers: str = "asked", shape: ObjectTree = TREE, limit: int = MIB) -> Reply:
    root = shape.object_id
    return Reply(node, header(root, answers), shape, announced(shape, root), limit)


def chain(length: int) -> ObjectTree:
    node = tree("0")
    for number in range(1, length):
        node = tree(str(number), node)
    return node


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        (tree("root", tree("twice"), tree("twice")), "a child twice"),
        (tree("root", tree("a", tree("leaf")), tree("b", tree("a"))), "other children"),
        (tree("root", *(tree(str(number)) for number in range(MOST_OBJECTS))), "more than"),
        (chain(DEEPEST + 1), "deep"),
        (tree("root", ObjectTree(object_id="\n")), "no SHA-256"),
        (tree("root", ObjectTree(object_id="AB" * 32)), "no SHA-256"),
    ],
)
def test_a_tree_that_cannot_be_right_is_refused(hostile: ObjectTree, said: str) -> None:
    with pytest.raises(RefusedReply, match=said):
        announced(hostile, hostile.object_id)


def test_a_tree_belongs_to_its_message() -> None:
    assert announced(TREE, ROOT) == {LEAF: [], ROOT: [LEAF]}
    with pytest.raises(RefusedReply, match="root"):
        announced(TREE, LEAF)


def test_an_honest_tree_may_share_objects() -> None:
    shared = tree("shared")
    shape = tree("root", tree("a", shared), tree("b", shared))
    assert len(announced(shape, shape.object_id)) == 4


def test_a_reply_is_complete_with_its_last_object() -> None:
    replies = Replies()
    assert replies.announce(reply(1)) == [LEAF, ROOT]
    assert replies.put(1, LEAF, LEAF_CONTENT) == (True, [], [])
    assert replies.announce(reply(1)) == [ROOT], "sent again after a lost answer"
    stored, [complete], _ = replies.put(1, ROOT, ROOT_CONTENT)
    assert stored and complete.message_id == ROOT
    assert replies.put(1, ROOT, ROOT_CONTENT) == (False, [], []), "it is there already"


def test_only_its_sender_delivers_an_object() -> None:
    replies = Replies()
    replies.announce(reply(1))
    assert replies.put(2, LEAF, LEAF_CONTENT) == (False, [], [])
    assert replies.get(LEAF) is None
    with pytest.raises(RefusedReply, match="another reply"):
        replies.announce(reply(2, "another"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (LEAF, b"something else", "not what its id says"),
        (made("", b"no head")[0], made("", b"no head")[1], "cannot be read"),
        (ROOT, ROOT_CONTENT, "other children"),
        (*made("ArrayChunk", bytes(MIB)), "more than 1 MiB"),
    ],
)
def test_an_object_that_cannot_be_right_ends_its_reply_only(name: str, content: bytes, said: str) -> None:
    replies = Replies()
    replies.announce(reply(1, "of another node"))
    shape = ObjectTree(object_id="ab" * 32, children=[ObjectTree(object_id=name)])
    replies.announce(reply(2, shape=shape))
    stored, complete, [(refused, reason)] = replies.put(2, name, content)
    assert (stored, complete, refused.node) == (False, [], 2) and said in reason
    assert "ab" * 32 not in replies and ROOT in replies


def test_a_message_has_one_reply_and_nothing_stays_of_those_before() -> None:
    replies = Replies()
    replies.announce(reply(1))
    replies.put(1, LEAF, LEAF_CONTENT)
    replies.announce(reply(1, shape=tree("other")))
    assert ROOT not in replies and replies.get(LEAF) is None
    replies.delete_in_run(7)
    assert not any(vars(replies)[name] for name in ("_replies", "_answering", "_by_node", "_holders"))


def test_the_serverapp_reads_replies_and_keeps_its_own_names() -> None:
    store = ObjectStore()
    store.preregister(7, TREE)
    store.put(LEAF, LEAF_CONTENT)
    other = tree("reply", ObjectTree(object_id=LEAF))
    store.replies.announce(reply(1, shape=other))
    assert store.get_object_tree(other.object_id) == other
    assert store.get(ROOT) == b"" and store.get(LEAF) == LEAF_CONTENT
    store.delete(other.object_id)
    assert store.get(LEAF) == LEAF_CONTENT and other.object_id not in store.replies
    store.replies.announce(reply(1, shape=other))
    store.delete_objects_in_run(7)
    assert other.object_id not in store.replies and LEAF not in store
