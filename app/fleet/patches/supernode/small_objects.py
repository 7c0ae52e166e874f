"""The SuperNode's end of ``patches/small_objects.py``.

Read in flwr 1.39.0: ``client/grpc_rere_client``, ``supernode/start_client_internal.py``.
"""

from typing import Any

from app.fleet.patches.registry import Flower, Patch
from app.fleet.patches.small_objects import ASKS, OBJECTS, PURPOSE, WITHOUT, received, those_that_fit

_INTERCEPTOR = "flwr.client.grpc_rere_client.connection:NodeAuthClientInterceptor"
_PULL = "flwr.supernode.start_client_internal:_pull_and_store_message"
_PUSH = "flwr.supernode.start_client_internal:_push_messages"
_TREE = "flwr.supercore.inflatable.inflatable_object:iterate_object_tree"


def apply(flower: Flower, _context: Any) -> None:
    """Teach this process's SuperNode."""
    stock_interceptor, iterate_object_tree = flower[_INTERCEPTOR], flower[_TREE]
    pull, push = flower[_PULL], flower[_PUSH]
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
                incoming.update(received(call.trailing_metadata()))
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

    flower.replace(_INTERCEPTOR, Interceptor)
    flower.replace(_PULL, pull_and_store_message)
    flower.replace(_PUSH, push_messages)


PATCH = Patch(
    name="small-objects",
    process="supernode",
    purpose=PURPOSE,
    without=WITHOUT,
    needs={
        _INTERCEPTOR: "",
        f"{_INTERCEPTOR}.intercept_unary_unary": "88f582715ad4",
        _PULL: "eaf5d0e36dc3",
        _PUSH: "5f09f2f7a86c",
        _TREE: "34c0fe845619",
    },
    apply=apply,
)
