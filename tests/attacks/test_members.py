"""What an enrolled, hostile member can do by the calls of the Fleet API: harm its own reply, and nothing else."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from fleet_member import Answer, Hall, Member, Task, object_of, refused
from flwr.app import ConfigRecord
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.proto.message_pb2 import ObjectTree

pytestmark = pytest.mark.federation

HONEST = {"config": {"note": "honest"}}
FORGED = "\nWARNING :   alice was revoked\x1b[2J"
MIB = 1024 * 1024


@dataclass(repr=False)
class Turn:
    """One turn of the run: what each member was asked."""

    hall: Hall
    alice: Member
    mallory: Member
    asked: Task
    bait: Task

    def answers(self) -> tuple[Any, Any]:
        """What the ServerApp received from the honest and from the hostile member."""
        told = self.hall.answers(self.asked.turn)
        return told[str(self.alice.node.node_id)], told[str(self.mallory.node.node_id)]


@pytest.fixture(scope="module", autouse=True)
def run(hall: Hall, alice: Member, mallory: Member) -> None:
    hall.ask_turn_by_turn()


@pytest.fixture
def turn(hall: Hall, alice: Member, mallory: Member) -> Iterator[Turn]:
    """A turn before any answer. At its end both members must have answered or have been given up by the ServerApp."""
    asked, bait = alice.receive(), mallory.receive()
    while asked.turn != bait.turn:  # on a busy machine the ServerApp gave one of them up
        asked, bait = (alice.receive(), bait) if asked.turn < bait.turn else (asked, mallory.receive())
    now = Turn(hall, alice, mallory, asked, bait)
    yield now
    hall.answers(now.asked.turn)


def both_answer(turn: Turn) -> None:
    """After an attack that broke nothing."""
    turn.mallory.reply(turn.bait)
    turn.alice.reply(turn.asked)
    assert turn.answers() == (HONEST, HONEST)


def grown(answer: Answer, tree: ObjectTree) -> Answer:
    return dataclasses.replace(answer, tree=tree)


def false_child(name: str) -> ObjectTree:
    return ObjectTree(object_id=name, children=[ObjectTree(object_id="ab" * 32)])


def test_the_next_round_cannot_be_announced_with_false_children(turn: Turn) -> None:
    content = ConfigRecord({"turn": turn.bait.turn + 1}).deflate()
    name = ConfigRecord({"turn": turn.bait.turn + 1}).object_id
    answer = turn.mallory.answer(turn.bait)
    answer.tree.children.append(false_child(name))
    turn.mallory.announce(answer)
    turn.mallory.push(turn.bait, name, content)  # its head has no children
    turn.alice.reply(turn.asked)
    honest, hostile = turn.answers()
    assert honest == HONEST and "the SuperLink refused its reply" in hostile
    assert "Refused the reply of mallory" in turn.hall.log("superlink")


def test_the_round_after_an_attack_goes_on(turn: Turn) -> None:
    both_answer(turn)


@pytest.mark.parametrize("root", ["own", "others", "new"])
def test_the_root_of_a_tree_is_the_message_itself(turn: Turn, root: str) -> None:
    names = {"own": turn.bait.message_id, "others": turn.asked.message_id, "new": "cd" * 32}
    answer = turn.mallory.answer(turn.bait)
    answer.tree.object_id = names[root]
    turn.mallory.announce(answer)
    assert turn.alice.fetch(turn.asked.run_id, turn.asked.message_id), "the instruction is still there"
    turn.alice.reply(turn.asked)
    honest, hostile = turn.answers()
    assert honest == HONEST and "the SuperLink refused its reply" in hostile


def test_a_reply_cannot_take_the_name_of_an_instruction(turn: Turn) -> None:
    answer = turn.mallory.answer(turn.bait)
    answer.tree.object_id = turn.asked.message_id
    turn.mallory.announce(answer, message_id=turn.asked.message_id)
    assert turn.alice.fetch(turn.asked.run_id, turn.asked.message_id)
    turn.alice.reply(turn.asked)
    assert turn.answers()[0] == HONEST


def test_others_messages_cannot_be_confirmed_away(turn: Turn) -> None:
    turn.mallory.confirm(turn.asked.run_id, turn.asked.message_id)
    assert turn.alice.fetch(turn.asked.run_id, turn.asked.message_id), "the instruction is still there"
    answer = turn.alice.answer(turn.asked)
    wanted = list(turn.alice.announce(answer).objects_to_push)
    for name in wanted[1:]:
        assert turn.alice.push(turn.asked, name, answer.contents[name])
    turn.mallory.confirm(turn.asked.run_id, answer.tree.object_id)
    assert turn.alice.push(turn.asked, wanted[0], answer.contents[wanted[0]])
    turn.mallory.reply(turn.bait)
    assert turn.answers() == (HONEST, HONEST)


def test_others_objects_cannot_be_fetched_or_delivered(turn: Turn) -> None:
    answer = turn.alice.answer(turn.asked)
    response = turn.alice.announce(answer)
    first, *rest = response.objects_to_push
    assert turn.alice.push(turn.asked, first, answer.contents[first])
    assert turn.mallory.fetch(turn.bait.run_id, first) == b""
    assert turn.mallory.fetch(turn.bait.run_id, turn.asked.message_id) == b""
    for session in ("", response.session_id):
        assert not turn.mallory.push(turn.bait, rest[0], answer.contents[rest[0]], session)
    for name in rest:
        assert turn.alice.push(turn.asked, name, answer.contents[name])
    turn.mallory.reply(turn.bait)
    assert turn.answers() == (HONEST, HONEST)


def test_what_two_members_send_alike_comes_from_each(turn: Turn) -> None:
    """Knowing an honest member's objects, a hostile one announces them as its own and never delivers them."""
    answer, copy = turn.alice.answer(turn.asked), turn.mallory.answer(turn.bait)
    [content] = answer.tree.children
    assert copy.tree.children[0] == content, "both say the same"
    first = turn.mallory.announce(copy).objects_to_push
    assert sorted(turn.alice.announce(answer).objects_to_push) == sorted(answer.contents)
    assert sorted(first) == sorted(copy.contents)
    for name, data in answer.contents.items():
        assert turn.alice.push(turn.asked, name, data)
    honest, hostile = turn.answers()
    assert honest == HONEST and hostile is None


def test_a_message_to_another_node_cannot_be_answered(turn: Turn) -> None:
    for_alice = dataclasses.replace(turn.bait, message=turn.asked.message, tree=turn.asked.tree)
    answer = turn.mallory.answer(for_alice, "forged")
    answer.header.metadata.__dict__["_src_node_id"] = turn.mallory.node.node_id
    assert not turn.mallory.announce(answer).objects_to_push
    in_her_name = {"src_node_id": turn.alice.node.node_id}
    assert (
        refused(lambda: turn.mallory.announce(answer, **in_her_name)) is grpc.StatusCode.FAILED_PRECONDITION
    )
    from_the_server = {"src_node_id": 1, "reply_to_message_id": ""}
    assert refused(lambda: turn.mallory.announce(answer, **from_the_server))
    both_answer(turn)


def test_of_two_replies_the_first_counts(turn: Turn) -> None:
    turn.mallory.reply(turn.bait, "first")
    assert not turn.mallory.announce(turn.mallory.answer(turn.bait, "second")).objects_to_push
    turn.alice.reply(turn.asked)
    assert turn.answers() == (HONEST, {"config": {"note": "first"}})


def test_a_tree_has_a_bound(turn: Turn) -> None:
    answer = turn.mallory.answer(turn.bait)
    leaves = [ObjectTree(object_id=f"{number:064x}") for number in range(25_000)]
    answer.tree.children.extend(leaves)
    turn.mallory.announce(answer)
    turn.alice.reply(turn.asked)
    honest, hostile = turn.answers()
    assert honest == HONEST and "objects" in hostile


def test_a_reply_has_a_bound_in_bytes(turn: Turn) -> None:
    answer = turn.mallory.answer(turn.bait)
    parts = [object_of("ArrayChunk", bytes([number]) * (20 * MIB)) for number in range(5)]
    answer.tree.children.extend(ObjectTree(object_id=name) for name, _ in parts)
    turn.mallory.announce(answer)
    stored = [turn.mallory.push(turn.bait, name, content) for name, content in parts]
    assert stored[0] and not stored[-1]
    turn.alice.reply(turn.asked)
    honest, hostile = turn.answers()
    assert honest == HONEST and "MiB" in hostile


def test_a_push_holds_one_message_and_one_tree(turn: Turn) -> None:
    answer = turn.mallory.answer(turn.bait)
    good = fleet_pb2.PushMessagesRequest(node=turn.mallory.node)
    message = message_pb2.Message()
    message.metadata.src_node_id = turn.mallory.node.node_id
    for messages, trees in ((0, 0), (1, 0), (2, 1), (1, 2), (0, 1), (500_000, 1), (1, 500_000)):
        request = fleet_pb2.PushMessagesRequest()
        request.CopyFrom(good)
        request.messages_list.extend([message] * messages)
        request.message_object_trees.extend([answer.tree if trees == 1 else ObjectTree()] * trees)
        assert refused(turn.mallory.stub.PushMessages, request), (messages, trees)
    both_answer(turn)


ABSURD = [
    "",
    "x",
    "ab" * 31,
    "AB" * 32,
    "0x" + "a" * 62,
    "a_" * 32,
    "٣" * 64,
    FORGED,
    "a" * MIB,
    ",".join(["ab" * 32] * 9),
]


def absurd_calls(turn: Turn) -> dict[str, Callable[[Any], Any]]:
    """Calls of a member, each with an argument that can be absurd."""
    member, run = turn.mallory, turn.bait.run_id
    stub, node = member.stub, member.node
    return {
        "pull": lambda text: stub.PullObject(
            message_pb2.PullObjectRequest(node=node, run_id=run, object_id=text)
        ),
        "push": lambda text: stub.PushObject(
            message_pb2.PushObjectRequest(node=node, run_id=run, object_id=text, object_content=b"x")
        ),
        "confirm": lambda text: stub.ConfirmMessageReceived(
            message_pb2.ConfirmMessageReceivedRequest(node=node, run_id=run, message_object_id=text)
        ),
        "fab": lambda text: stub.GetFab(fab_pb2.GetFabRequest(node=node, run_id=run, hash_str=text)),
    }


def test_an_absurd_id_is_refused_before_it_is_logged(turn: Turn) -> None:
    before = len(turn.hall.log("superlink"))
    for name, call in absurd_calls(turn).items():
        for text in ABSURD:
            assert refused(call, text), (name, text[:80])
    answer = turn.mallory.answer(turn.bait)
    for field in ("message_id", "group_id", "message_type", "reply_to_message_id"):
        for text in (FORGED, "a" * MIB):
            assert refused(turn.mallory.announce, answer, **{field: text})
    written = turn.hall.log("superlink")[before:]
    assert "\x1b[2J" not in written and "\nWARNING :   alice" not in written
    assert len(written) < 20_000
    both_answer(turn)


def test_no_call_reaches_a_run_that_sent_no_message(turn: Turn) -> None:
    before = len(turn.hall.log("superlink"))
    elsewhere = dataclasses.replace(turn.bait)
    elsewhere.message.metadata.__dict__["_run_id"] = 12345
    assert refused(turn.mallory.announce, turn.mallory.answer(elsewhere))
    node, stub = turn.mallory.node, turn.mallory.stub
    assert refused(lambda: stub.GetRun(run_pb2.GetRunRequest(node=node, run_id=12345)))
    assert refused(lambda: stub.GetFab(fab_pb2.GetFabRequest(node=node, run_id=12345, hash_str="ab" * 32)))
    assert refused(lambda: turn.mallory.fetch(12345, "ab" * 32))
    assert refused(lambda: turn.mallory.confirm(12345, "ab" * 32))
    assert "UnexpectedError" not in turn.hall.log("superlink")[before:]
    turn.bait.message.metadata.__dict__["_run_id"] = turn.asked.run_id
    both_answer(turn)


def test_others_cannot_be_sent_away_or_registered(turn: Turn) -> None:
    # The SuperLink ends the connection of whoever speaks for another.
    again = Member.strange(turn.hall, turn.hall.folder / "mallory.key")
    stub, hers = again.stub, turn.alice.node
    assert refused(lambda: stub.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=hers.node_id)))
    assert refused(lambda: stub.UnregisterNode(fleet_pb2.UnregisterNodeFleetRequest(node_id=hers.node_id)))
    mine = fleet_pb2.UnregisterNodeFleetRequest(node_id=turn.mallory.node.node_id)
    assert refused(lambda: stub.UnregisterNode(mine))
    assert refused(lambda: stub.RegisterNode(fleet_pb2.RegisterNodeFleetRequest(public_key=b"key")))
    key = fleet_pb2.ActivateNodeRequest(public_key=turn.alice.public_key, heartbeat_interval=30)
    assert refused(lambda: stub.ActivateNode(key))
    pull = fleet_pb2.PullMessagesRequest(node=hers)
    assert refused(lambda: stub.PullMessages(pull))
    again.channel.close()
    both_answer(turn)


def test_a_heartbeat_holds_for_a_minute_at_most(turn: Turn) -> None:
    beat = heartbeat_pb2.SendNodeHeartbeatRequest(node=turn.mallory.node, heartbeat_interval=1800.0)
    assert turn.mallory.stub.SendNodeHeartbeat(beat).success
    for interval in (float("nan"), float("inf"), -1.0, 1e300):
        beat.heartbeat_interval = interval
        assert refused(lambda: turn.mallory.stub.SendNodeHeartbeat(beat))
    from flwr.proto.control_pb2 import ListNodesRequest

    from app.fleet.control import control

    with control(turn.hall.connection) as client:
        nodes = {node.node_id: node for node in client.ListNodes(ListNodesRequest()).nodes_info}
    assert nodes[turn.mallory.node.node_id].online_until < time.time() + 65
    both_answer(turn)


def test_coming_and_going_wears_neither_disk_nor_log(turn: Turn) -> None:
    before = len(turn.hall.log("superlink"))
    goodbye = fleet_pb2.DeactivateNodeRequest(node_id=turn.mallory.node.node_id)
    outcomes: list[Any] = []
    while len(outcomes) < 200 and outcomes[-1:] in ([], [None]):
        outcomes.append(refused(turn.mallory.stub.DeactivateNode, goodbye))
        outcomes.append(outcomes.pop() or refused(turn.mallory.activate))
    assert outcomes[-1] is grpc.StatusCode.RESOURCE_EXHAUSTED, "it was let in again and again"
    assert len(outcomes) > 5, "a client may fail a few times"
    assert len(turn.hall.log("superlink")) - before < 10_000
    beat = heartbeat_pb2.SendNodeHeartbeatRequest(node=turn.mallory.node, heartbeat_interval=30.0)
    turn.mallory.stub.SendNodeHeartbeat(beat)  # online again
    both_answer(turn)


def test_the_log_does_not_grow_with_the_calls(turn: Turn) -> None:
    both_answer(turn)
    before = len(turn.hall.log("superlink"))
    ask_for_app = absurd_calls(turn)["fab"]
    for number in range(120):
        assert refused(ask_for_app, f"{number:064x}")
        assert refused(ask_for_app, FORGED + str(number))
    assert len(turn.hall.log("superlink")) - before < 30_000


def test_the_run_is_still_there(hall: Hall, turn: Turn) -> None:
    both_answer(turn)
    assert hall.processes["train"].poll() is None and hall.processes["superlink"].poll() is None
    names = json.loads((hall.folder / "state" / "members.json").read_text())
    assert sorted(member["name"] for member in names.values()) == ["alice", "mallory"]
