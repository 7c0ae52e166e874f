"""The SuperLink holds requests for work until there is work, so nobody polls.

Stock Flower answers "nothing" at once. Ten nodes that ask every 0.1 s cost a whole core, and asking every 3 s costs that
latency in every phase. Here a SuperNode's ``PullMessages`` waits on the SuperLink until a message for that node is
complete. A ServerApp's waits until a reply is complete, and a SuperExec's ``AcquireTask`` until there is a task. Each
waits for a bounded time. Nothing changes on the wire, so stock clients work as before. A request that the Fleet API holds
costs no thread (``app/fleet/fleet_api/calls.py``).

A message is stored before its objects have been pushed, and a puller that is too early backs off for a whole second. So
a message counts as there when its last object has arrived.

Read in flwr 1.39.0: ``server/superlink/fleet/message_handler``, ``superlink/servicer/runtime``.
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from app.fleet.patches.registry import Flower, Patch

NODE_HOLD_S = 20.0
GRID_HOLD_S = 2.0  # a ServerApp looks at the time and at who is online between two questions
TASK_HOLD_S = 1.0
GATHER_S = (
    0.1  # each answer costs a ServerApp three calls, so replies that come together are handed out together
)
_SERVICER = "flwr.server.superlink.fleet.grpc_rere.fleet_servicer:FleetServicer"
_FLEET = "flwr.server.superlink.fleet.message_handler.message_handler"
_RUNTIME = "flwr.superlink.servicer.runtime.runtime_handlers"
ON_ITS_WAY_S = 10.0  # without a further part of it
RECHECK_S = 5.0  # for what arrives by a way that is not signalled here


class Arrivals:
    """Which messages are on their way, and who waits for one.

    A receiver is the id of a node (instructions) or of the instruction that is being replied to.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._missing: dict[str, set[str]] = {}  # message id -> objects that have not arrived
        self._receiver: dict[str, Any] = {}
        self._latest: dict[str, float] = {}  # message id -> when the latest part of it came
        self._version: dict[Any, int] = {}
        self._order: list[Any] = []
        self._waiting: dict[Any, list[Callable[[], None]]] = {}

    def expect(self, message_id: str, receiver: Any, objects: Iterable[str]) -> None:
        """A message was stored; ``objects`` of it are still to come."""
        with self._changed:
            self._receiver[message_id] = receiver
            self._missing[message_id] = set(objects)
            self._latest[message_id] = self._clock()
            self._settle([message_id])

    def arrived(self, object_id: str) -> None:
        """An object was stored."""
        with self._changed:
            waiting = [message for message, missing in self._missing.items() if object_id in missing]
            for message in waiting:
                self._missing[message].discard(object_id)
                self._latest[message] = self._clock()
            self._settle(waiting)

    def _settle(self, messages: list[str]) -> None:
        for message in messages:
            if not self._missing[message]:
                del self._missing[message], self._latest[message]
                self.signal(self._receiver.pop(message))

    def signal(self, receiver: Any) -> None:
        """Something is there for ``receiver``."""
        with self._changed:
            self._version[receiver] = self._version.get(receiver, 0) + 1
            self._order.append(receiver)
            if len(self._order) > 100_000:  # forget the oldest; a forgotten waiter only waits its hold time
                for old in self._order[:50_000]:
                    self._version.pop(old, None)
                del self._order[:50_000]
            for wake in self._waiting.pop(receiver, ()):
                wake()
            self._changed.notify_all()

    def incomplete(self, receivers: Iterable[Any]) -> set[Any]:
        """Those of ``receivers`` whose message is stored but still on its way.

        A message whose sender has ended meanwhile stays incomplete. It must not keep its receiver from all others.
        """
        with self._changed:
            for message in [m for m, latest in self._latest.items() if self._clock() - latest > ON_ITS_WAY_S]:
                del self._missing[message], self._latest[message]
                self.signal(self._receiver.pop(message))
            return set(self._receiver.values()) & set(receivers)

    def gather(self, receivers: list[Any], timeout: float) -> None:
        """Where something came for some of the receivers, wait for the others for a moment."""
        with self._changed:
            waiting = {receiver for receiver in receivers if receiver not in self._version}
            if len(waiting) < len(set(receivers)):
                self._changed.wait_for(lambda: waiting <= self._version.keys(), timeout)

    def seen(self, receivers: Iterable[Any]) -> dict[Any, int]:
        """A snapshot to wait against."""
        with self._changed:
            return {receiver: self._version.get(receiver, 0) for receiver in receivers}

    def when_changed(self, seen: dict[Any, int], wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` once something has come for a receiver since the snapshot ``seen``; returns what forgets it."""
        with self._changed:
            if self.seen(seen) != seen:
                wake()
            else:
                for receiver in seen:
                    self._waiting.setdefault(receiver, []).append(wake)

        def forget() -> None:
            with self._changed:
                for receiver in seen:
                    with suppress(KeyError, ValueError):
                        self._waiting[receiver].remove(wake)
                        if not self._waiting[receiver]:
                            del self._waiting[receiver]

        return forget

    def wait(self, seen: dict[Any, int], timeout: float) -> None:
        """Wait until something came for one of the receivers since the snapshot ``seen``."""
        with self._changed:
            self._changed.wait_for(
                lambda: any(self._version.get(receiver, 0) != version for receiver, version in seen.items()),
                timeout,
            )


def hold(
    arrivals: Arrivals,
    receivers: Iterable[Any],
    answer: Callable[[], Any],
    is_empty: Callable[[Any], bool],
    hold_s: float,
) -> Any:
    """Ask ``answer`` again whenever something arrives, until it is not empty or ``hold_s`` have passed."""
    receivers = list(receivers)
    deadline = time.monotonic() + hold_s
    while True:
        seen = arrivals.seen(receivers)
        response = answer()
        remaining = deadline - time.monotonic()
        if not is_empty(response) or remaining <= 0:
            return response
        arrivals.wait(seen, min(remaining, RECHECK_S))


def _hold_fleet(arrivals: Arrivals, flower: Flower) -> None:
    from flwr.proto.fleet_pb2 import PullMessagesResponse

    pull, push, push_object = (
        flower[f"{_SERVICER}.PullMessages"],
        flower[f"{_FLEET}:push_messages"],
        flower[f"{_FLEET}:push_object"],
    )

    def pull_messages(self: Any, request: Any, context: Any) -> Any:
        node = request.node.node_id
        seen = arrivals.seen([node])
        # A message that is handed to a dead connection is lost.
        if arrivals.incomplete([node]) or not context.is_active():
            response = PullMessagesResponse()
        else:
            response = pull(self, request, context)
        if not response.messages_list:
            context.answer_later(partial(arrivals.when_changed, seen), NODE_HOLD_S)
        return response

    def tells(state: Any) -> bool:
        """Whether ``state`` tells by itself when a reply is there; it is asked to tell the waiting."""
        if hasattr(state, "replied"):
            state.replied = arrivals.signal
            return True
        return False

    def push_messages(request: Any, state: Any) -> Any:
        told = tells(state)
        response = push(request, state)
        if not told:
            metadata = request.messages_list[0].metadata
            arrivals.expect(metadata.message_id, metadata.reply_to_message_id, response.objects_to_push)
        return response

    def push_fleet_object(request: Any, state: Any) -> Any:
        response = push_object(request, state)
        if not tells(state):
            arrivals.arrived(request.object_id)
        return response

    flower.replace(f"{_SERVICER}.PullMessages", pull_messages)
    flower.replace(f"{_FLEET}:push_messages", push_messages)
    flower.replace(f"{_FLEET}:push_object", push_fleet_object)


def _object_ids(tree: Any) -> set[str]:
    ids = {tree.object_id}
    for child in tree.children:
        ids |= _object_ids(child)
    return ids


def _hold_runtime(arrivals: Arrivals, flower: Flower) -> None:
    pull, push, push_object, acquire = (
        flower[f"{_RUNTIME}:{name}"]
        for name in ("pull_messages", "push_messages", "push_object", "acquire_task")
    )

    def pull_messages(request: Any, state: Any, task: Any) -> Any:
        wanted = list(request.message_ids)
        if not wanted:
            return pull(request, state, task)

        def answer() -> Any:
            arrivals.gather(wanted, GATHER_S)
            late = arrivals.incomplete(wanted)
            return pull(type(request)(message_ids=[m for m in wanted if m not in late]), state, task)

        return hold(arrivals, wanted, answer, lambda r: not r.messages_list, GRID_HOLD_S)

    def push_messages(request: Any, state: Any, task: Any) -> Any:
        response = push(request, state, task)
        missing = set(response.objects_to_push)
        for message, tree in zip(request.messages_list, request.message_object_trees, strict=True):
            metadata = message.metadata
            arrivals.expect(metadata.message_id, metadata.dst_node_id, _object_ids(tree) & missing)
        return response

    def push_runtime_object(request: Any, state: Any, task: Any) -> Any:
        response = push_object(request, state, task)
        arrivals.arrived(request.object_id)
        return response

    def acquire_task(request: Any, state: Any) -> Any:
        # Nothing signals a new task, so look often. There is one caller, on this host.
        deadline = time.monotonic() + TASK_HOLD_S
        while not (response := acquire(request, state)).HasField("task") and time.monotonic() < deadline:
            time.sleep(0.2)
        return response

    flower.replace(f"{_RUNTIME}:pull_messages", pull_messages)
    flower.replace(f"{_RUNTIME}:push_messages", push_messages)
    flower.replace(f"{_RUNTIME}:push_object", push_runtime_object)
    flower.replace(f"{_RUNTIME}:acquire_task", acquire_task)


def apply(flower: Flower, _context: Any) -> None:
    """Hold requests on this process's SuperLink."""
    arrivals = Arrivals()
    _hold_fleet(arrivals, flower)
    _hold_runtime(arrivals, flower)


PATCH = Patch(
    name="long-polls",
    process="superlink",
    purpose="a request for work is held until there is some, so nobody polls",
    without="clients and the ServerApp poll, which costs up to 3 s in each phase",
    needs={
        f"{_SERVICER}.PullMessages": "2a11e6bcee94",
        f"{_FLEET}:push_messages": "0ff408f15ed2",
        f"{_FLEET}:push_object": "b2d1d6f95ed6",
        f"{_RUNTIME}:pull_messages": "8c998d6d197c",
        f"{_RUNTIME}:push_messages": "03b2ea647465",
        f"{_RUNTIME}:push_object": "b2f9c8ea398e",
        f"{_RUNTIME}:acquire_task": "bd7f7507d885",
    },
    apply=apply,
)
