"""A Flower Grid without Flower's processes: messages go straight to Bouquet's ClientApp in a process pool.

For experiments that need many runs. ServerApp, ClientApp and strategies are the deployed ones; what is
left out is the SuperLink, the SuperNodes and the network.
"""

import itertools
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed, wait
from contextlib import AbstractContextManager
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from bench.machine import cores


class InProcessGrid(Grid, AbstractContextManager["InProcessGrid"]):
    """Nodes 1 to `clients`; node i holds partition i - 1. One worker process per core."""

    def __init__(self, clients: int, run_config: dict[str, Any]) -> None:
        self.clients = clients
        self.run_config = run_config
        self._numbers = itertools.count(1)
        self._replies: dict[str, Future[Message]] = {}
        # Torch must not fork after its first use.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(cores(), context, _prepare)
        _identify()

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def set_run(self, run: Run) -> None:
        """The run has no entry in a SuperLink."""

    @property
    def run(self) -> Run:
        """There is none."""
        raise NotImplementedError

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; they are always there."""
        return list(range(1, self.clients + 1))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand the messages to the worker processes."""
        ids = []
        for message in messages:
            message_id = str(next(self._numbers))
            message.metadata.__dict__["_message_id"] = message_id
            self._replies[message_id] = self._pool.submit(_handle, message, self.clients, self.run_config)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come; waits for at least one."""
        waiting = {self._replies[i]: i for i in message_ids if i in self._replies}
        if not waiting:
            return []
        next(as_completed(waiting))
        done, _ = wait(waiting, timeout=0)
        for future in done:
            del self._replies[waiting[future]]
        return [future.result() for future in done]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send, and wait for all replies."""
        ids = list(self.push_messages(messages))
        return [self._replies.pop(i).result(timeout) for i in ids]


def _identify() -> None:
    """Flower's messages want to know whose they are; its own processes set this."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1


def _prepare() -> None:
    """Set up a worker process."""
    import torch

    _identify()

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _handle(message: Message, clients: int, run_config: dict[str, Any]) -> Message:
    """One message in a worker process."""
    from app.client_app import app

    node = message.metadata.dst_node_id
    config: dict[str, bool | float | int | str] = {"partition-id": node - 1, "num-partitions": clients}
    return app(message, Context(0, node, config, RecordDict(), run_config))
