"""The SuperLink's end of ``patches/small_objects.py``.

Read in flwr 1.39.0: ``server/superlink/fleet``. What a client sends is stored through the same function as by a call,
with its checks.
"""

from typing import Any

from app.fleet.patches.registry import Flower, Patch
from app.fleet.patches.small_objects import ASKS, OBJECTS, PURPOSE, WITHOUT, received, those_that_fit

_SERVICER = "flwr.server.superlink.fleet.grpc_rere.fleet_servicer:FleetServicer"
_PUSH_OBJECT = "flwr.server.superlink.fleet.message_handler.message_handler:push_object"
_TREE = "flwr.supercore.inflatable.inflatable_object:iterate_object_tree"


def apply(flower: Flower, _context: Any) -> None:
    """Teach this process's Fleet API."""
    from flwr.proto.message_pb2 import PushObjectRequest

    pull, push = flower[f"{_SERVICER}.PullMessages"], flower[f"{_SERVICER}.PushMessages"]
    push_object, iterate_object_tree = flower[_PUSH_OBJECT], flower[_TREE]

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
        for object_id, content in received(context.invocation_metadata()).items():
            if object_id in missing:
                call = PushObjectRequest(
                    node=request.node,
                    run_id=request.messages_list[0].metadata.run_id,
                    session_id=response.session_id,
                    object_id=object_id,
                    object_content=content,
                )
                if push_object(call, self.state_factory.state()).stored:
                    missing.remove(object_id)
        del response.objects_to_push[:]
        response.objects_to_push.extend(missing)
        return response

    flower.replace(f"{_SERVICER}.PullMessages", pull_messages)
    flower.replace(f"{_SERVICER}.PushMessages", push_messages)


PATCH = Patch(
    name="small-objects",
    process="superlink",
    purpose=PURPOSE,
    without=WITHOUT,
    needs={
        f"{_SERVICER}.PullMessages": "2a11e6bcee94",
        f"{_SERVICER}.PushMessages": "8ad6cda123ac",
        _PUSH_OBJECT: "b2d1d6f95ed6",
        _TREE: "34c0fe845619",
    },
    # An object that came along must be noted as arrived like any other.
    after=("long-polls",),
    apply=apply,
)
