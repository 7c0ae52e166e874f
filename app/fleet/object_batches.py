"""The SuperLink's side of ``app/object_batch.py``: a ServerApp's calls may name several objects.

Every object goes through Flower's own handler, with its checks. Read in flwr 1.39.0:
``superlink/servicer/runtime/runtime_handlers.py``.
"""

from logging import WARNING
from typing import Any

from flwr.proto import message_pb2
from flwr.supercore import log

from app.object_batch import LARGEST_BATCH, SEPARATOR, decode, encode


def install() -> bool:
    """Teach this process's Runtime API; False, with a warning, where this Flower differs."""
    try:
        from flwr.superlink.servicer.runtime import runtime_handlers as handlers

        pull, push, confirm = handlers.pull_object, handlers.push_object, handlers.confirm_message_received
    except (ImportError, AttributeError) as error:
        log(WARNING, "Objects travel one by one: this Flower differs from 1.39 (%s)", error)
        return False

    def pull_object(request: Any, state: Any, task: Any) -> Any:
        if SEPARATOR not in request.object_id:
            return pull(request, state, task)
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

    handlers.pull_object, handlers.push_object = pull_object, push_object
    handlers.confirm_message_received = confirm_message_received
    return True
