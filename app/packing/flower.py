"""The private parts of Flower's objects that the apps use, in one place, and the guard of all of them.

Read in flwr 1.39.0: ``superlink/grid/http_grid.py``, ``app/metadata.py``, ``supercore/inflatable``.
"""

import functools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from app.packing import internals

if TYPE_CHECKING:
    from flwr.app import Message  # Flower imports gRPC, whose settings a SuperLink makes first


class Use(NamedTuple):
    """One use of private parts: a patch that lives in the apps, because the registry does not travel to clients."""

    name: str
    purpose: str
    without: str
    needs: Mapping[str, str]


_GRID = "flwr.superlink.grid.http_grid:HttpGrid"
_OBJECT = "flwr.supercore.inflatable.inflatable_object"
TRANSPORT = Use(
    "app-transport",
    "the ServerApp moves the objects of a phase in a few calls, and an unreadable reply harms its sender only",
    "each object costs a call, and a reply that cannot be read ends the run",
    {
        f"{_GRID}.__init__": "8e9776be6069",
        f"{_GRID}._runtime_client": "b564cf9ee6d7",
        f"{_GRID}._try_push_messages": "6e420bc3237c",
        f"{_GRID}.push_messages": "9aa5938ad18d",
        f"{_GRID}.pull_messages": "67a5266a5a2e",
        "flwr.app.metadata:Metadata.__init__": "addaf6f8fb5b",
        "flwr.app.message:make_message": "7b10c6528e36",
        "flwr.app.message:remove_content_from_message": "1e153b885ff8",
        "flwr.common.serde:message_to_proto": "257d477d3145",
        "flwr.common.serde_utils:metadata_from_proto": "ba4de188f828",
        f"{_OBJECT}:InflatableObject.deflate": "4a39bdfae5ed",
        f"{_OBJECT}:get_all_nested_objects": "409d9822fd87",
        f"{_OBJECT}:get_object_body": "221a88d53513",
        f"{_OBJECT}:get_object_head_values_from_object_content": "d9288c47e775",
        f"{_OBJECT}:get_object_tree": "d247ce6d76fd",
        f"{_OBJECT}:iterate_object_tree": "34c0fe845619",
        f"{_OBJECT}:no_object_id_recompute": "1374cc3f64f1",
        "flwr.supercore.inflatable.inflatable_protobuf_utils:make_pull_object_fn_protobuf": "ede05e6314fa",
        "flwr.supercore.inflatable.inflatable_protobuf_utils:make_push_object_fn_protobuf": "bccb55b82460",
        "flwr.supercore.inflatable.inflatable_utils:ObjectPullError": "",
        "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": "93b98a2ea3f3",
        "flwr.supercore.inflatable.inflatable_utils:pull_objects": "31bb2de46b45",
    },
)
ARRAYS = Use(
    "app-arrays",
    "an array is serialised only when someone asks for its bytes",
    "each array is copied some five times more on either side",
    {
        "flwr.app.message.array:Array.__init__": "1bee5bf070c3",
        "flwr.app.message.array:Array.numpy": "3e01beebfff1",
        f"{_OBJECT}:add_header_to_object_body": "750d1611d693",
        f"{_OBJECT}:get_object_body": "221a88d53513",
    },
)


@functools.cache
def available(name: str) -> bool:
    """Whether the use called ``name`` works in this process; where not, one line says why."""
    use = {TRANSPORT.name: TRANSPORT, ARRAYS.name: ARRAYS}[name]
    if reason := internals.usable(use.name, use.needs):
        logging.getLogger("flwr").warning(internals.LINE, use.name, reason, use.without)
    return not reason


def runtime_client(grid: Any) -> Any:
    """The client of the SuperLink's Runtime API that Flower's ``HttpGrid`` uses."""
    return grid._runtime_client


def set_message_id(message: "Message", message_id: str) -> None:
    """Give ``message`` its id."""
    message.metadata.__dict__["_message_id"] = message_id


def set_source_node(message: "Message", node_id: int) -> None:
    """Say which node ``message`` came from."""
    message.metadata.__dict__["_src_node_id"] = node_id
