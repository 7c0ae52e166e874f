"""The small objects of a message travel with the message: fewer calls for the same content.

Flower fetches and delivers every object of a message by a call of its own, each signed, verified and
dispatched: a training message of Bouquet is the model in pieces of 5 MiB and a few objects of some hundred bytes. Here
the small ones ride in the gRPC metadata of ``PullMessages`` and ``PushMessages``. A peer that does not know of it
ignores the metadata and makes its calls as before, so stock SuperNodes and SuperLinks work on either side.

Read in flwr 1.39.0: ``client/grpc_rere_client``, ``server/superlink/fleet``, ``supernode/start_client_internal.py``.
The receiver stores what it gets through the same function as a call would, with its checks.
"""

from collections.abc import Iterable
from logging import WARNING
from types import ModuleType
from typing import Any

from flwr.supercore import log
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

from app.object_batch import ENTRY_SIZE, decode, encode

ASKS, OBJECTS = "bouquet-small-objects", "bouquet-objects-bin"
# gRPC refuses more than 8 KiB of metadata, Flower's own signature and key included.
LARGEST_OBJECT, LARGEST_TOTAL = 2048, 4096


def those_that_fit(objects: Iterable[tuple[str, bytes | None]]) -> bytes:
    """A batch of as many of the small ``objects`` (id, content) as fit; those not there yet are left out."""
    chosen: list[tuple[str, bytes]] = []
    size = 0
    for object_id, content in objects:
        if content and len(content) <= LARGEST_OBJECT and size + len(content) + ENTRY_SIZE <= LARGEST_TOTAL:
            chosen.append((object_id, content))
            size += len(content) + ENTRY_SIZE
    return encode(chosen)


def _received(metadata: Any) -> dict[str, bytes]:
    for key, value in metadata or ():
        if key == OBJECTS:
            try:
                return decode(bytes(value))
            except ValueError:
                return {}
    return {}


def install_superlink() -> bool:
    """Teach this process's Fleet API; False, with a warning, where this Flower differs."""
    try:
        from flwr.proto.message_pb2 import PushObjectRequest
        from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
        from flwr.server.superlink.fleet.message_handler import message_handler

        pull, push, _ = FleetServicer.PullMessages, FleetServicer.PushMessages, message_handler.push_object
    except (ImportError, AttributeError) as error:
        log(WARNING, "Small objects travel by calls of their own: this Flower differs from 1.39 (%s)", error)
        return False

    def pull_messages(self: Any, request: Any, context: Any) -> Any:
        response = pull(self, request, context)
        if response.messages_list and any(key == ASKS for key, _ in context.invocation_metadata()):
            store = self.objectstore_factory.store()
            ids = [tree.object_id for tree in iterate_object_tree(response.message_object_trees[0])]
            if payload := those_that_fit((object_id, store.get(object_id)) for object_id in ids):
                context.set_trailing_metadata(((OBJECTS, payload),))
                run_id = response.messages_list[0].metadata.run_id
                self.state_factory.state().store_traffic(run_id, bytes_sent=len(payload), bytes_recv=0)
        return response

    def push_messages(self: Any, request: Any, context: Any) -> Any:
        response = push(self, request, context)
        missing = list(response.objects_to_push)
        for object_id, content in _received(context.invocation_metadata()).items():
            if object_id in missing:
                call = PushObjectRequest(
                    node=request.node,
                    run_id=request.messages_list[0].metadata.run_id,
                    session_id=response.session_id,
                    object_id=object_id,
                    object_content=content,
                )
                if message_handler.push_object(call, self.state_factory.state()).stored:
                    missing.remove(object_id)
        del response.objects_to_push[:]
        response.objects_to_push.extend(missing)
        return response

    FleetServicer.PullMessages = pull_messages  # type: ignore[method-assign]
    FleetServicer.PushMessages = push_messages  # type: ignore[method-assign]
    return True


def install_supernode(internal: ModuleType) -> bool:
    """Teach this process's SuperNode; ``internal`` is Flower's ``start_client_internal`` module."""
    try:
        from flwr.client.grpc_rere_client import connection

        stock_interceptor = connection.NodeAuthClientInterceptor  # type: ignore[attr-defined]
        pull, push = internal._pull_and_store_message, internal._push_messages
    except (ImportError, AttributeError) as error:
        log(WARNING, "Small objects travel by calls of their own: this Flower differs from 1.39 (%s)", error)
        return False
    incoming: dict[str, bytes] = {}
    outgoing: list[bytes] = []  # one thread pulls and pushes: the SuperNode's main loop

    class Interceptor(stock_interceptor):  # type: ignore[misc, valid-type]
        """Flower's node authentication, and the small objects beside it."""

        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            method = details.method.rpartition("/")[2]
            extra: list[tuple[str, str | bytes]] = []
            if method == "PullMessages":
                extra = [(ASKS, "1")]
            elif method == "PushMessages":
                extra = [(OBJECTS, payload) for payload in outgoing if payload]
            details = details._replace(metadata=[*(details.metadata or []), *extra])
            call = super().intercept_unary_unary(continuation, details, request)
            if method == "PullMessages":
                incoming.clear()
                incoming.update(_received(call.trailing_metadata()))
            return call

    def pull_and_store_message(**arguments: Any) -> Any:
        pull_object = arguments["pull_object"]

        def pull_here_first(run_id: int, object_id: str) -> bytes:
            content = incoming.get(object_id)
            return content if content is not None else bytes(pull_object(run_id, object_id))

        return pull(**{**arguments, "pull_object": pull_here_first})

    def push_messages(state: Any, object_store: Any, send: Any, push_object: Any) -> None:
        def send_with_objects(message: Any, object_tree: Any, clientapp_runtime: float) -> Any:
            ids = [tree.object_id for tree in iterate_object_tree(object_tree)]
            outgoing[:] = [those_that_fit((object_id, object_store.get(object_id)) for object_id in ids)]
            try:
                return send(message, object_tree, clientapp_runtime)
            finally:
                outgoing.clear()

        push(state=state, object_store=object_store, send=send_with_objects, push_object=push_object)

    connection.NodeAuthClientInterceptor = Interceptor  # type: ignore[attr-defined]
    internal._pull_and_store_message = pull_and_store_message  # type: ignore[attr-defined]
    internal._push_messages = push_messages  # type: ignore[attr-defined]
    return True
