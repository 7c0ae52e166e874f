"""The SuperLink's side of ``app/packing/object_batches.py``: a ServerApp's calls may name several objects.

Every object goes through Flower's own handler, with its checks. Read in flwr 1.39.0:
``superlink/servicer/runtime/runtime_handlers.py``.
"""

from typing import Any

from app.fleet.patches.registry import Flower, Patch
from app.packing.object_batches import LARGEST_BATCH, SEPARATOR, TRAFFIC, decode, encode, encode_traffic

_RUNTIME = "flwr.superlink.servicer.runtime.runtime_handlers"


def apply(flower: Flower, _context: Any) -> None:
    """Teach this process's Runtime API."""
    from flwr.proto import message_pb2

    pull, push, confirm = (
        flower[f"{_RUNTIME}:{name}"] for name in ("pull_object", "push_object", "confirm_message_received")
    )

    def pull_object(request: Any, state: Any, task: Any) -> Any:
        if SEPARATOR not in request.object_id:
            return pull(request, state, task)
        if request.object_id == TRAFFIC:
            [run] = state.get_run_info(run_ids=[task.run_id])
            content = encode_traffic(run.bytes_sent, run.bytes_recv)
            return message_pb2.PullObjectResponse(
                object_found=True, object_available=True, object_content=content
            )
        found, size = [], 0
        for name in filter(None, request.object_id.split(SEPARATOR)):
            single = message_pb2.PullObjectRequest(node=request.node, run_id=request.run_id, object_id=name)
            response = pull(single, state, task)
            if response.object_available and size + len(response.object_content) <= LARGEST_BATCH:
                found.append((name, response.object_content))
                size += len(response.object_content)
        return message_pb2.PullObjectResponse(
            object_found=True, object_available=True, object_content=encode(found)
        )

    def push_object(request: Any, state: Any, task: Any) -> Any:
        if SEPARATOR not in request.object_id:
            return push(request, state, task)
        stored = True
        for name, content in decode(request.object_content).items():
            single = message_pb2.PushObjectRequest(
                node=request.node,
                run_id=request.run_id,
                session_id=request.session_id,
                object_id=name,
                object_content=content,
            )
            stored = push(single, state, task).stored and stored
        return message_pb2.PushObjectResponse(stored=stored)

    def confirm_message_received(request: Any, state: Any, task: Any) -> Any:
        for name in filter(None, request.message_object_id.split(SEPARATOR)):
            single = message_pb2.ConfirmMessageReceivedRequest(
                node=request.node, run_id=request.run_id, message_object_id=name
            )
            confirm(single, state, task)
        return message_pb2.ConfirmMessageReceivedResponse()

    flower.replace(f"{_RUNTIME}:pull_object", pull_object)
    flower.replace(f"{_RUNTIME}:push_object", push_object)
    flower.replace(f"{_RUNTIME}:confirm_message_received", confirm_message_received)


PATCH = Patch(
    name="object-batches",
    process="superlink",
    purpose="one call of the ServerApp moves several objects",
    without="each object of each message costs a call between the ServerApp and the SuperLink",
    needs={
        f"{_RUNTIME}:pull_object": "9fad81e6c59e",
        f"{_RUNTIME}:push_object": "b2f9c8ea398e",
        "flwr.server.superlink.linkstate.linkstate:LinkState.get_run_info": "7840c4de3029",
        f"{_RUNTIME}:confirm_message_received": "ff4736642191",
    },
    # A held request waits for single objects, so each object of a batch must be noted as arrived.
    after=("long-polls",),
    apply=apply,
)
