"""The HTTP APIs of this machine answer to the user who runs them and to root, and to nobody else.

Flower's Control and Runtime API ask for no account, and whoever reaches them can run code as the user who started them.
Loopback keeps other machines out. Here the kernel tells whose socket a connection comes from, and a stranger's is ended
before a byte of it is read. Nothing changes for the clients, so Flower's own commands work as before.

A SuperLink can also listen at a socket in the file system. A container that shares the SuperLink's network loses it when
the SuperLink's container is started again; a socket in a volume that both have is there again.

Read in flwr 1.39.0: ``superlink/cli/flower_superlink.py``, ``supernode/cli/flower_supernode.py``, and in uvicorn 0.49:
``protocols/http/auto.py``, ``config.py``, ``server.py``.
"""

import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from app.fleet.host.peers import owner, user_of
from app.fleet.host.ports import bind_private
from app.fleet.patches.registry import Flower, Patch
from app.fleet.quiet import Quiet

_PROTOCOL = "uvicorn.protocols.http.auto:AutoHTTPProtocol"
_RUN = "uvicorn.server:Server.run"
_REFUSED = "Refused a connection of another user of this machine: the Control API and the Runtime API serve their own user"
_log, _quiet = logging.getLogger("flwr"), Quiet()


def apply(flower: Flower, _context: Any) -> None:
    """Have this process's web servers look at who connects."""
    stock: Any = flower[_PROTOCOL]

    class SameUser(stock):  # type: ignore[misc]
        """uvicorn's protocol for connections of this user and of root."""

        def connection_made(self, transport: Any) -> None:
            """Take a connection, or end it."""
            super().connection_made(transport)
            user = _user(transport)
            if user not in (0, os.geteuid()):
                if user is not None and _quiet.is_new(_REFUSED):
                    _log.warning(_REFUSED)
                transport.abort()

    flower.replace(_PROTOCOL, SameUser)


def apply_to_superlink(flower: Flower, context: Any) -> None:
    """The same, and listen at ``context.control_socket`` too, where that is set."""
    apply(flower, context)
    if context.control_socket is None:
        return
    stock: Any = flower[_RUN]

    def run(self: Any, sockets: list[socket.socket] | None = None) -> None:
        stock(self, [*(sockets or [self.config.bind_socket()]), bind_private(context.control_socket)])

    flower.replace(_RUN, run)


def _user(transport: Any) -> int | None:
    """Who is at the other end; None for a peer that has hung up, such as a health check."""
    local, remote = (transport.get_extra_info(name) for name in ("sockname", "peername"))
    if isinstance(local, tuple):
        # IPv4 only, which loopback here is.
        return owner(remote, local) if len(local) == len(remote) == 2 else None
    return user_of(transport.get_extra_info("socket").fileno())


def _patch(process: str, apply: Callable[[Flower, Any], None], needs: Mapping[str, str]) -> Patch:
    return Patch(
        name="same-user",
        process=process,
        purpose="the HTTP APIs on loopback serve the user who runs them, and root",
        without="every user of this machine can run code as the one who started this",
        required=True,
        needs={_PROTOCOL: "", **needs},
        apply=apply,
    )


SUPERLINK = _patch(
    "superlink",
    apply_to_superlink,
    {"flwr.superlink.cli.flower_superlink:_run_superlink_http_api": "100838fe6184", _RUN: "239e0133d430"},
)
SUPERNODE = _patch(
    "supernode", apply, {"flwr.supernode.cli.flower_supernode:_start_supernode_http_api": "b2832210a0ca"}
)
