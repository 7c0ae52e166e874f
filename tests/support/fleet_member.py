"""A SuperLink with keys, a run that asks its members turn by turn, and members that speak the Fleet API themselves."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from certified import certified_channel
from federation_processes import Fleet
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.interceptors import RuntimeVersionClientInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from app.fleet.control import Connection
from app.fleet.identity import certificates, keys, members

TURNS = Path(__file__).parents[1] / "attacks" / "turns"


class Hall(Fleet):
    """A SuperLink with TLS and node authentication, whose members the test enrolls."""

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def connection(self) -> Connection:
        return Connection(f"127.0.0.1:{self.control_port}", self.pki / "ca.crt")

    def open(self) -> None:
        """Start the SuperLink."""
        certificates.init_ca(self.pki)
        certificates.issue_server(self.pki)
        self.start(
            "superlink", "superlink", "--certificates", str(self.pki), "--state", str(self.folder / "state"),
            "--fleet-address", f"127.0.0.1:{self.fleet_port}", "--control-port", str(self.control_port),
        )  # fmt: skip
        self.wait_for("superlink", "Uvicorn running")
        self.wait_for("superlink", "Fleet API (gRPC-rere)")

    def enroll(self, name: str) -> keys.NodeKey:
        key = keys.make_node_key(self.folder / f"{name}.key")
        members.enroll(name, key.public_path, self.connection)
        return key

    def join(self, name: str) -> "Member":
        """A new member, online."""
        return Member.dial(self, name, self.enroll(name).path)

    def ask_turn_by_turn(self) -> None:
        """Start the run whose ServerApp is in ``tests/attacks/turns``."""
        self.start(
            "train", "train", "--control-address", f"127.0.0.1:{self.control_port}",
            "--ca", str(self.pki / "ca.crt"), "--app", str(TURNS), NUM_CLIENTS="2",
        )  # fmt: skip

    def answers(self, turn: int, timeout_s: float = 30.0) -> dict[str, Any]:
        """What the ServerApp received in a turn, by node id; a client that is missing is None."""
        deadline = time.monotonic() + timeout_s
        while True:
            for line in self.log("train").splitlines():
                if line.startswith("turn ") and (told := json.loads(line[5:]))["turn"] == turn:
                    answers: dict[str, Any] = told["answers"]
                    return answers | dict.fromkeys(told["missing"])
            assert time.monotonic() < deadline, self.log("train")[-2000:] + self.log("superlink")[-3000:]
            time.sleep(0.05)


@dataclass(repr=False)
class Task:
    """An instruction as a member received it."""

    message: Message  # without its content
    tree: ObjectTree
    turn: int
    config: bytes  # the object of its config

    @property
    def run_id(self) -> int:
        return self.message.metadata.run_id

    @property
    def message_id(self) -> str:
        return self.tree.object_id


@dataclass
class Answer:
    """A reply and its objects, as a SuperNode would send them; a test changes what it likes."""

    header: Message
    tree: ObjectTree
    contents: dict[str, bytes]


@dataclass(repr=False)
class Member:
    """One enrolled client, by the calls of the Fleet API."""

    name: str
    stub: Any
    channel: Any
    public_key: bytes
    node: Node = field(default_factory=Node)

    @classmethod
    def dial(cls, hall: Hall, name: str, key: Path) -> "Member":
        """A member that is online."""
        member = cls.strange(hall, key, name)
        member.activate()
        return member

    @classmethod
    def strange(cls, hall: Hall, key: Path, name: str = "") -> "Member":
        """Somebody with a key, who has not called yet."""
        private, public = keys.load_node_key(key)
        channel = grpc.intercept_channel(
            certified_channel(hall.fleet_port, hall.pki / "ca.crt", key),
            RuntimeVersionClientInterceptor(component_name="SuperNode"),
            NodeAuthClientInterceptor(private, public),
        )
        return cls(name, FleetStub(channel), channel, public_key_to_bytes(public))

    def activate(self, heartbeat_interval: float = 30.0) -> None:
        answer = self.stub.ActivateNode(
            ActivateNodeRequest(public_key=self.public_key, heartbeat_interval=heartbeat_interval)
        )
        self.node = Node(node_id=answer.node_id)

    def receive(self) -> Task:
        """The next instruction, with its objects fetched and not confirmed."""
        for _ in range(3):
            answer = self.stub.PullMessages(PullMessagesRequest(node=self.node))
            if answer.messages_list:
                break
        [proto], [tree] = answer.messages_list, answer.message_object_trees
        message = message_from_proto(proto)
        config = self.fetch(message.metadata.run_id, tree.children[0].children[0].object_id)
        turn = ConfigRecord.inflate(config)["turn"]
        assert isinstance(turn, int)
        return Task(message, tree, turn, config)

    def fetch(self, run_id: int, object_id: str) -> bytes:
        """An object's content; empty where the SuperLink gives none."""
        request = PullObjectRequest(node=self.node, run_id=run_id, object_id=object_id)
        return bytes(self.stub.PullObject(request).object_content)

    def answer(self, task: Task, note: str = "honest") -> Answer:
        """An honest reply to ``task`` that says ``note``."""
        content = RecordDict({"config": ConfigRecord({"note": note})})
        task.message.metadata.__dict__["_message_id"] = task.message_id
        reply = Message(content, reply_to=task.message)
        contents = {name: each.deflate() for name, each in get_all_nested_objects(reply).items()}
        tree = get_object_tree(reply)
        header = remove_content_from_message(reply)
        header.metadata.__dict__["_message_id"] = tree.object_id
        return Answer(header, tree, contents)

    def announce(self, answer: Answer, **changes: Any) -> Any:
        """Push the reply's header and tree; ``changes`` are fields of its metadata."""
        proto = message_to_proto(answer.header)
        for name, value in changes.items():
            setattr(proto.metadata, name, value)
        return self.stub.PushMessages(
            PushMessagesRequest(
                node=self.node,
                messages_list=[proto],
                message_object_trees=[answer.tree],
                clientapp_runtime_list=[0.1],
            )
        )

    def push(self, task: Task, object_id: str, content: bytes, session: str = "") -> bool:
        request = PushObjectRequest(
            node=self.node,
            run_id=task.run_id,
            object_id=object_id,
            object_content=content,
            session_id=session,
        )
        return bool(self.stub.PushObject(request).stored)

    def confirm(self, run_id: int, message_id: str) -> None:
        self.stub.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self.node, run_id=run_id, message_object_id=message_id)
        )

    def reply(self, task: Task, note: str = "honest") -> None:
        """Do what a SuperNode does."""
        self.confirm(task.run_id, task.message_id)
        answer = self.answer(task, note)
        response = self.announce(answer)
        for name in response.objects_to_push:
            assert self.push(task, name, answer.contents[name], response.session_id)


def refused(call: Callable[..., Any], *arguments: Any, **named: Any) -> grpc.StatusCode | None:
    """Make ``call``; the status it ends with, None where it succeeds."""
    try:
        call(*arguments, **named)
    except grpc.RpcError as error:
        return error.code()
    return None


def object_of(
    kind: str, body: bytes, children: Mapping[str, Any] | tuple[str, ...] = ()
) -> tuple[str, bytes]:
    """Id and content of one of Flower's objects, made by hand: its head may claim any children."""
    content = f"{kind} {','.join(children)} {len(body)}".encode() + b"\x00" + body
    return hashlib.sha256(content).hexdigest(), content
