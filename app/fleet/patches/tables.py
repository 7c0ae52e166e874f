"""The patches of each process, in the order in which they are installed."""

import json
from typing import Any

from app.fleet.patches import lost_clients, same_user, serverapp, turns
from app.fleet.patches.registry import Flower, Patch, why_off
from app.fleet.patches.superlink import admission, calls, fleet_server, long_polls, object_batches, state
from app.fleet.patches.superlink import small_objects as superlink_small_objects
from app.fleet.patches.supernode import (
    client_certificate,
    connection_errors,
    ended_runs,
    model_cache,
    polling,
    reconnect,
    warm,
)
from app.fleet.patches.supernode import small_objects as supernode_small_objects
from app.packing import flower

SUPERLINK: tuple[Patch, ...] = (
    state.PATCH,
    turns.PATCH,
    lost_clients.PATCH,
    long_polls.PATCH,
    object_batches.PATCH,
    superlink_small_objects.PATCH,
    calls.PATCH,
    admission.PATCH,
    same_user.SUPERLINK,
    fleet_server.PATCH,
    serverapp.PATCH,
)
SUPERNODE: tuple[Patch, ...] = (
    supernode_small_objects.PATCH,
    warm.PATCH,
    model_cache.PATCH,
    client_certificate.PATCH,
    polling.PATCH,
    ended_runs.PATCH,
    reconnect.PATCH,
    connection_errors.PATCH,
)
# Only where Flower runs the messages itself does a SuperNode serve HTTP.
SUPERNODE_HTTP: tuple[Patch, ...] = (same_user.SUPERNODE,)


def _inside_the_app(_flower: Flower, _context: Any) -> None:
    """These replace nothing: ``app/packing/flower.py`` looks at its needs in the app's own process."""


APPS: tuple[Patch, ...] = tuple(
    Patch(use.name, process, use.purpose, use.without, use.needs, _inside_the_app)
    for use, process in ((flower.TRANSPORT, "serverapp"), (flower.ARRAYS, "serverapp, clientapp"))
)
ALL: tuple[Patch, ...] = (*SUPERLINK, *SUPERNODE, *SUPERNODE_HTTP, *APPS)
NAMES: tuple[str, ...] = tuple(dict.fromkeys(patch.name for patch in ALL))


def rows(switches: str) -> list[dict[str, Any]]:
    """Every patch with its state in this environment: on, or off with the reason."""
    return [
        {
            "name": patch.name,
            "process": patch.process,
            "purpose": patch.purpose,
            "without": patch.without,
            "required": patch.required,
            "needs": list(patch.needs),
            "on": not (reason := why_off(patch, switches)),
            "reason": reason,
        }
        for patch in ALL
    ]


def as_json(switches: str) -> str:
    """:func:`rows` for programs."""
    return json.dumps({"schema_version": 1, "patches": rows(switches)}, indent=2)
