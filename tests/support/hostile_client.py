"""An enrolled client that means harm: it speaks the Fleet API itself and runs no app.

python hostile_client.py HOST:PORT CA.CRT NODE.KEY

Each message it receives gets the next bad answer of its kind, and a line on standard output. What an
honest client's software could send is built with Flower's classes, the rest byte by byte.
"""

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.client.grpc_rere_client import connection as grpc_rere
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.serde import metadata_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.retry import RetryInvoker, exponential

from app.fleet.identity.keys import load_node_key
from app.fleet.patches.registry import select
from app.fleet.patches.small_objects import OBJECTS
from app.fleet.patches.supernode import client_certificate
from app.packing.arrays import pack, unpack

METRICS = {"num-examples": 400, "train_loss": 0.5, "partition-id": 2}
OVERSIZED = 65 * 1024 * 1024


@dataclass(frozen=True)
class Forged:
    """An object of Flower's, made by hand: its head may claim what it likes, its body be anything."""

    kind: str
    body: bytes
    children: tuple["Forged", ...] = ()

    @property
    def content(self) -> bytes:
        head = [self.kind, ",".join(child.object_id for child in self.children), str(len(self.body))]
        return HEAD_VALUE_DIVIDER.join(head).encode() + HEAD_BODY_DIVIDER + self.body

    @property
    def object_id(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def tree(self) -> ObjectTree:
        return ObjectTree(object_id=self.object_id, children=[child.tree for child in self.children])

    @property
    def contents(self) -> dict[str, bytes]:
        return {
            self.object_id: self.content,
            **{name: data for child in self.children for name, data in child.contents.items()},
        }


def reply_body(reply: Message) -> bytes:
    return ProtoMessage(metadata=metadata_to_proto(reply.metadata)).SerializeToString()


def records(**children: Forged) -> Forged:
    """A RecordDict."""
    names = {name: child.object_id for name, child in children.items()}
    return Forged("RecordDict", json.dumps(names).encode(), tuple(children.values()))


def empty(message: Message) -> Message:
    return Message(RecordDict(), reply_to=message)


def honest(message: Message, change: Callable[[np.ndarray], np.ndarray], **metrics: int) -> Message:
    """A reply of the right form with the received model, changed."""
    model = unpack(message.content.array_records["packed"])
    packed = pack({name: change(array) for name, array in model.items()})
    return Message(
        RecordDict({"packed": packed, "metrics": MetricRecord(METRICS | metrics)}), reply_to=message
    )


# -- answers of the right form --------------------------------------------------------------------


def nan_model(message: Message) -> Message:
    return honest(message, lambda array: np.full_like(array, np.nan))


def random_bytes(message: Message) -> Message:
    noise = Array("uint8", (250_000,), "safetensors", os.urandom(250_000))
    packed = ArrayRecord({"model": noise})
    return Message(RecordDict({"packed": packed, "metrics": MetricRecord(METRICS)}), reply_to=message)


def wrong_shapes(message: Message) -> Message:
    return honest(message, lambda array: array.reshape(-1)[:1])


def absurd_count(message: Message) -> Message:
    return honest(message, lambda array: array + 1000, **{"num-examples": 10**12})


# -- answers that Flower's classes would not make -------------------------------------------------


def random_record(message: Message) -> Forged:
    content = records(metrics=Forged("MetricRecord", os.urandom(10_000)))
    return Forged("Message", reply_body(empty(message)), (content,))


def oversized(message: Message) -> Forged:
    packed = Forged("ConfigRecord", bytes(OVERSIZED))
    return Forged("Message", reply_body(empty(message)), (records(packed=packed),))


def random_message(_message: Message) -> Forged:
    return Forged("Message", os.urandom(10_000))


def no_message(_message: Message) -> Forged:
    return Forged("MetricRecord", b"")


def no_records(message: Message) -> Forged:
    return Forged("Message", reply_body(empty(message)), (Forged("MetricRecord", b""),))


def another_ones_reply(message: Message) -> Forged:
    """What the SuperLink sees is right; inside, it says that it answers another message."""
    reply = empty(message)
    reply.metadata.__dict__["_reply_to_message_id"] = hashlib.sha256(b"another").hexdigest()
    return Forged("Message", reply_body(reply), (records(),))


ANSWERS: dict[str, list[Callable[[Message], Message | Forged]]] = {
    "train": [nan_model, random_bytes, wrong_shapes, absurd_count, oversized],
    "evaluate": [random_record, random_message, no_message, no_records, another_ones_reply],
}


class Noisy(NodeAuthClientInterceptor):
    """Signs as it must, and sends random bytes where small objects would travel."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        noise = [*(details.metadata or []), (OBJECTS, os.urandom(2000))]
        return super().intercept_unary_unary(continuation, details._replace(metadata=noise), request)


def main(address: str, ca: str, key: str) -> None:
    select([client_certificate.PATCH], SimpleNamespace(key=Path(key))).install()
    grpc_rere.NodeAuthClientInterceptor = Noisy
    once = RetryInvoker(exponential, recoverable_exceptions=grpc.RpcError, max_tries=1, max_time=None)
    connection = grpc_rere.grpc_request_response(
        address,
        insecure=False,
        retry_invoker=once,
        root_certificates=Path(ca).read_bytes(),
        authentication_keys=load_node_key(Path(key)),
    )
    turns: Counter[str] = Counter()
    with connection as (node_id, receive, send, _run, _fab, pull_object, push_object, confirm):
        print(f"online as node {node_id}", flush=True)
        while True:
            if (received := receive()) is None:
                time.sleep(0.05)
                continue
            header, tree = received
            run_id = header.metadata.run_id
            message = pull_and_inflate_object_from_tree(
                tree,
                partial(pull_object, run_id),
                partial(confirm, run_id),
                return_type=Message,
            )
            message.metadata.__dict__["_message_id"] = tree.object_id
            kind = message.metadata.message_type
            answer = ANSWERS[kind][turns[kind] % len(ANSWERS[kind])]
            turns[kind] += 1
            outcome = deliver(message, answer(message), run_id, send, push_object)
            print(f"{kind} {turns[kind]}: {answer.__name__}: {outcome}", flush=True)


def deliver(
    message: Message,
    answer: Message | Forged,
    run_id: int,
    send: Callable[[Message, ObjectTree, float], tuple[set[str], str]],
    push_object: Callable[[int, str, str, bytes], Any],
) -> str:
    """Send an answer as a SuperNode sends it, and say what the SuperLink made of it."""
    if isinstance(answer, Forged):
        header, tree, contents = empty(message), answer.tree, answer.contents
    else:
        header, tree = answer, get_object_tree(answer)
        contents = {name: thing.deflate() for name, thing in get_all_nested_objects(answer).items()}
    header.metadata.__dict__["_message_id"] = tree.object_id
    wanted, session = send(header, tree, 0.1)
    try:
        for name in wanted:
            push_object(run_id, session, name, contents[name])
    except grpc.RpcError as error:
        return str(error.code())
    return f"{len(wanted)} objects taken"


if __name__ == "__main__":
    main(*sys.argv[1:])
