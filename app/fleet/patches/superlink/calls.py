"""The form of a node's calls: looked at before anything of a call is done, logged or repeated.

Flower logs ids as they come, and takes one message of a push that may hold a million. A call of another form is
refused, and the log names its sender. Nobody comes and goes more than a few times a minute, because each time is written
to the disk.

Read in flwr 1.39.0: ``server/superlink/fleet/grpc_rere/fleet_servicer.py``.
"""

import math
import re
from logging import WARNING
from typing import Any

from app.fleet.identity.members import shown_name
from app.fleet.patches.registry import Flower, Patch
from app.fleet.quiet import Budget, Quiet

_SERVICER = "flwr.server.superlink.fleet.grpc_rere.fleet_servicer:FleetServicer"
MOST_STARTS = 20  # of a node within a minute, each coming and each going

LARGEST_HEADER = 64 * 1024  # bytes of a reply's metadata and error, without its objects
LONGEST_TEXT = 256  # characters of a group id or a message type
_OBJECT_ID = re.compile(r"[0-9a-f]{64}")


def is_object_id(text: str) -> bool:
    """Whether ``text`` is a SHA-256 as Flower writes it."""
    return _OBJECT_ID.fullmatch(text) is not None


def fault(request: Any) -> str:
    """What is wrong with the form of a request of the Fleet API; empty where nothing is."""
    check = _CHECKS.get(type(request).__name__)
    return check(request) if check is not None else ""


def _push_messages(request: Any) -> str:
    # Counted before anything is looked at: half a million empty entries are 1 MiB.
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        return "a push holds one message and one tree of objects"
    if len(request.clientapp_runtime_list) > 1 or not all(
        math.isfinite(seconds) and 0 <= seconds < 1e9 for seconds in request.clientapp_runtime_list
    ):
        return "a push holds one run time in seconds"
    message, metadata = request.messages_list[0], request.messages_list[0].metadata
    if message.ByteSize() > LARGEST_HEADER:
        return f"the header of a message has at most {LARGEST_HEADER} bytes"
    if not is_object_id(metadata.message_id) or not is_object_id(metadata.reply_to_message_id):
        return "the id of a message is a SHA-256"
    if not all(
        len(text) <= LONGEST_TEXT and text.isprintable()
        for text in (metadata.group_id, metadata.message_type)
    ):
        return f"a group id and a message type are at most {LONGEST_TEXT} printable characters"
    if not math.isfinite(metadata.created_at) or not math.isfinite(metadata.ttl):
        return "a message has a time and a time to live"
    return ""


def _object(request: Any) -> str:
    return "" if is_object_id(request.object_id) else "the id of an object is a SHA-256"


def _push_object(request: Any) -> str:
    return _object(request) or (
        "" if len(request.session_id) <= LONGEST_TEXT else "its session has no such id"
    )


def _confirm(request: Any) -> str:
    return "" if is_object_id(request.message_object_id) else "the id of a message is a SHA-256"


def _pull_messages(request: Any) -> str:
    return "a node is given its messages, it does not name them" if len(request.message_ids) else ""


def _get_fab(request: Any) -> str:
    return "" if is_object_id(request.hash_str) else "the hash of an app is a SHA-256"


_CHECKS = {
    "PushMessagesRequest": _push_messages,
    "PullMessagesRequest": _pull_messages,
    "PushObjectRequest": _push_object,
    "PullObjectRequest": _object,
    "ConfirmMessageReceivedRequest": _confirm,
    "GetFabRequest": _get_fab,
}


def apply(flower: Flower, _context: Any) -> None:
    """Look at the calls of this process's Fleet API."""
    import grpc
    from flwr.supercore import log

    quiet, starts = Quiet(), Budget(MOST_STARTS)

    def refuse(servicer: Any, context: Any, node_id: int, code: Any, reason: str) -> None:
        nodes = servicer.state_factory.state().get_node_info(node_ids=[node_id])
        name = shown_name(nodes[0]) if nodes else f"node {node_id}"
        if quiet.is_new(line := f"Refused a call of {name}: {reason}", name):
            log(WARNING, line)
        context.abort(code, f"Refused: {reason}")

    def checked(method: Any) -> Any:
        def call(self: Any, request: Any, context: Any) -> Any:
            if reason := fault(request):
                refuse(self, context, request.node.node_id, grpc.StatusCode.INVALID_ARGUMENT, reason)
            return method(self, request, context)

        return call

    def seldom(method: Any) -> Any:
        def call(self: Any, request: Any, context: Any) -> Any:
            node_id = getattr(request, "node_id", None)
            if node_id is None:
                node_id = self.state_factory.state().get_node_id_by_public_key(request.public_key) or 0
            if not starts.take(str(node_id)):
                reason = f"it came and went more than {MOST_STARTS} times within a minute"
                refuse(self, context, node_id, grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
            return method(self, request, context)

        return call

    for name in _CHECKED:
        flower.replace(name, checked(flower[name]))
    for name in _SELDOM:
        flower.replace(name, seldom(flower[name]))


_CHECKED = {
    f"{_SERVICER}.PullMessages": "2a11e6bcee94",
    f"{_SERVICER}.PushMessages": "8ad6cda123ac",
    f"{_SERVICER}.PullObject": "9512f6b2fa16",
    f"{_SERVICER}.PushObject": "460890accee5",
    f"{_SERVICER}.ConfirmMessageReceived": "d37a80f19def",
    f"{_SERVICER}.GetFab": "83ec3a6f703a",
}
_SELDOM = {f"{_SERVICER}.ActivateNode": "6a858e60e3a8", f"{_SERVICER}.DeactivateNode": "2a83435fde40"}

PATCH = Patch(
    name="calls",
    process="superlink",
    purpose="the form of a node's call is looked at before anything of it is done or logged",
    without="a member can write lines of its own into the log, and fill the memory and the disk",
    required=True,
    only_with="certificates",
    needs={**_CHECKED, **_SELDOM},
    # It looks first: what wraps a method of the servicer is called after it.
    after=("long-polls", "small-objects"),
    apply=apply,
)
