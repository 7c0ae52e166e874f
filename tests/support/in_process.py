"""A grid without processes, for tests of the rounds: each message is answered at once by a function."""

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from app.packing import arrays as packing

Answer = Callable[[int, Message], Message | None]
# A model.
START = {"weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3, np.float32)}


def little_to_collect() -> Iterator[None]:
    """For a fixture: some of Flower's strategies run the garbage collector per reply, and it walks all that was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class FakeGrid:
    """Nodes 100, 101, ... hold partitions 0, 1, ...; ``answer`` makes a node's reply, or None for none."""

    def __init__(self, nodes: int, answer: Answer) -> None:
        self.nodes, self.answer = [100 + number for number in range(nodes)], answer
        self.late: set[int] = set()  # nodes whose reply is there when they have got the next message
        self.sent: list[tuple[str, int]] = []
        self._replies: dict[str, tuple[int, Message]] = {}
        self._newest: dict[int, str] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            message_id = f"m{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = message_id
            self.sent.append((message.metadata.message_type, node))
            if (reply := self.answer(node, message)) is not None:
                self._replies[message_id] = node, reply
            self._newest[node] = message_id
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = [name for name in message_ids if name in self._replies and self._is_ready(name)]
        return [self._replies.pop(name)[1] for name in ready]

    def _is_ready(self, message_id: str) -> bool:
        node = self._replies[message_id][0]
        return node not in self.late or self._newest[node] != message_id

    def as_grid(self) -> Grid:
        return cast(Grid, self)


def identify() -> None:
    """Flower's messages want to know whose they are; its own processes set this."""
    TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = 1, 0, 1


def learn(node: int, message: Message) -> Message:
    """A client that moves each number a little, by its node and the round: quick, and different for all."""
    partition = node - 100
    metrics: dict[str, Any] = {"num-examples": 10 + partition, "partition-id": partition}
    config = message.content.config_records.get("config", ConfigRecord())
    if message.metadata.message_type == "query":
        return Message(RecordDict({"metrics": MetricRecord({"partition-id": partition})}), reply_to=message)
    content = packing.unpacked(message.content)
    if message.metadata.message_type == "evaluate":
        metrics |= {"eval_loss": 1.0 + partition, "eval_accuracy": 0.5}
        return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
    step = 0.01 * (partition + 1) * int(cast(int, config["server-round"]))
    arrays = {
        name: array + np.float32(step) * np.sign(array + 0.5).astype(array.dtype)
        for name, array in packing.from_record(content.array_records["arrays"]).items()
    }
    metrics |= {"train_loss": 2.0 - step, "train_accuracy": 0.25}
    reply = RecordDict({"arrays": packing.to_record(arrays), "metrics": MetricRecord(metrics)})
    return Message(packing.packed(reply), reply_to=message)
