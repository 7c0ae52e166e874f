"""The SuperLink answers when there is something to say: requests for work are held, not polled.

Stock Flower answers "nothing" at once, and ten nodes that ask every 0.1 s cost a whole core, while asking
every 3 s costs that latency in every phase. Here a SuperNode's ``PullMessages`` waits on the SuperLink until
a message for that node is complete, a ServerApp's until a reply is complete, a SuperExec's ``AcquireTask``
until there is a task, each for a bounded time. Nothing changes on the wire, so stock clients work as before.

"Complete" matters: a message is stored before its objects have been pushed, and a puller that comes too early
backs off for a whole second. So a message counts as there when its last object has arrived.

Read in flwr 1.39.0: ``server/superlink/fleet/message_handler``, ``superlink/servicer/runtime``. ``install``
leaves Flower as it is, and says so, where the names it replaces are missing.
"""

import threading
import time
from collections.abc import Callable, Iterable
from logging import WARNING
from types import ModuleType
from typing import Any

from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.supercore import log

NODE_HOLD_S = 20.0
GRID_HOLD_S = 10.0  # Flower's HTTP client gives up after 30 s
TASK_HOLD_S = 1.0
GATHER_S = (
    0.1  # each answer costs a ServerApp three calls, so replies that come together are handed out together
)
RECHECK_S = 5.0  # for what arrives by a way that is not signalled here


class Arrivals:
    """Which messages are on their way, and who waits for one.

    A receiver is the id of a node (instructions) or of the instruction that is being replied to.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._missing: dict[str, set[str]] = {}  # message id -> objects that have not arrived
        self._receiver: dict[str, Any] = {}
        self._version: dict[Any, int] = {}
        self._order: list[Any] = []

    def expect(self, message_id: str, receiver: Any, objects: Iterable[str]) -> None:
        """A message was stored; ``objects`` of it are still to come."""
        with self._changed:
            self._receiver[message_id] = receiver
            self._missing[message_id] = set(objects)
            self._settle([message_id])

    def arrived(self, object_id: str) -> None:
        """An object was stored."""
        with self._changed:
            waiting = [message for message, missing in self._missing.items() if object_id in missing]
            for message in waiting:
                self._missing[message].discard(object_id)
            self._settle(waiting)

    def _settle(self, messages: list[str]) -> None:
        for message in messages:
            if not self._missing[message]:
                del self._missing[message]
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
            self._changed.notify_all()

    def incomplete(self, receivers: Iterable[Any]) -> set[Any]:
        """Those of ``receivers`` whose message is stored but still on its way."""
        with self._changed:
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


def _hold_fleet(arrivals: Arrivals, servicer: Any, handler: ModuleType) -> None:
    pull, push, push_object = servicer.PullMessages, handler.push_messages, handler.push_object
    newest: dict[int, object] = {}

    def pull_messages(self: Any, request: Any, context: Any) -> Any:
        node, mine = request.node.node_id, object()
        newest[node] = mine

        def gone() -> bool:
            # A message that is handed to a dead connection is lost, so a node that has dialled again,
            # or hung up, must not be answered here.
            return newest[node] is not mine or not context.is_active()

        def answer() -> Any:
            if gone():
                return PullMessagesResponse()
            return None if arrivals.incomplete([node]) else pull(self, request, context)

        def is_empty(response: Any) -> bool:
            return response is None or not (response.messages_list or gone())

        response = hold(arrivals, [node], answer, is_empty, NODE_HOLD_S)
        return PullMessagesResponse() if response is None else response

    def push_messages(request: Any, state: Any) -> Any:
        response = push(request, state)
        metadata = request.messages_list[0].metadata
        arrivals.expect(metadata.message_id, metadata.reply_to_message_id, response.objects_to_push)
        return response

    def push_fleet_object(request: Any, state: Any) -> Any:
        response = push_object(request, state)
        arrivals.arrived(request.object_id)
        return response

    servicer.PullMessages = pull_messages
    handler.push_messages, handler.push_object = push_messages, push_fleet_object  # type: ignore[attr-defined]


def _object_ids(tree: Any) -> set[str]:
    ids = {tree.object_id}
    for child in tree.children:
        ids |= _object_ids(child)
    return ids


def _hold_runtime(arrivals: Arrivals, handlers: ModuleType) -> None:
    pull, push, push_object, acquire = (
        handlers.pull_messages,
        handlers.push_messages,
        handlers.push_object,
        handlers.acquire_task,
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
        # Tasks come with a run; nothing signals them, so look often but briefly: this is one local caller.
        deadline = time.monotonic() + TASK_HOLD_S
        while not (response := acquire(request, state)).HasField("task") and time.monotonic() < deadline:
            time.sleep(0.2)
        return response

    handlers.pull_messages, handlers.push_messages = pull_messages, push_messages  # type: ignore[attr-defined]
    handlers.push_object, handlers.acquire_task = push_runtime_object, acquire_task  # type: ignore[attr-defined]


def install() -> bool:
    """Hold requests on this process's SuperLink; False, with a warning, where this Flower differs."""
    try:
        from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
        from flwr.server.superlink.fleet.message_handler import message_handler
        from flwr.superlink.servicer.runtime import runtime_handlers

        for owner, names in (
            (FleetServicer, ("PullMessages",)),
            (message_handler, ("push_messages", "push_object")),
            (runtime_handlers, ("pull_messages", "push_messages", "push_object", "acquire_task")),
        ):
            for name in names:
                getattr(owner, name)
    except (ImportError, AttributeError) as error:
        log(WARNING, "Requests are polled, not held: this Flower differs from 1.39 (%s)", error)
        return False
    arrivals = Arrivals()
    _hold_fleet(arrivals, FleetServicer, message_handler)
    _hold_runtime(arrivals, runtime_handlers)
    return True
