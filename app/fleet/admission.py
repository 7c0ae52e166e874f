"""Who may talk to the SuperLink's Fleet API, and a line in its log for each who may not.

Flower verifies that a caller holds a key and that the key belongs to the node it speaks for. This module
adds to that, without changing what goes over the wire:

* the key that a client asks to activate must be the one it signs with. Flower leaves that open for
  `ActivateNode`, so whoever knows a member's public key could keep that member out as "online twice";
* a refusal says its reason on both ends, with the client's name where it has one;
* who comes in is noted in `members.json`, node id to name, for the ServerApp's log and `summary.json`;
  the ServerApp has no other way to learn a client's name;
* one message is at most 64 MiB (Flower: 2 GiB), so that nobody can fill the memory with a single call;
* gRPC's handshake errors become readable lines.

Read in flwr 1.39.0, `server/superlink/fleet/grpc_rere/node_auth_server_interceptor.py`.
"""

import atexit
import contextlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from logging import INFO, WARNING
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.fleet.private_files import PUBLIC, write_atomically
from app.fleet.refusals import Handshakes

if TYPE_CHECKING:
    import grpc

REGISTRY = "members.json"
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_QUIET_S = 60.0


def install(state: Path | None = None) -> None:
    """Put admission in front of the Fleet API. Call before the SuperLink starts, only with node authentication.

    `state`: the SuperLink's state folder, where `members.json` goes; None for no such file.
    Raises ImportError or AttributeError where Flower is another than the one this was written for: a
    SuperLink whose door cannot be guarded must not open.
    """
    from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

    # By its full name: the package exports a function of the same name.
    superlink: Any = importlib.import_module("flwr.superlink.cli.flower_superlink")
    _ = superlink.NodeAuthServerInterceptor, superlink.GRPC_MAX_MESSAGE_LENGTH
    superlink.NodeAuthServerInterceptor = _interceptor_class(state / REGISTRY if state else None)
    superlink.GRPC_MAX_MESSAGE_LENGTH = max(MAX_MESSAGE_BYTES, 2 * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE)


def make_handshakes_readable(*, loopback: bool = False) -> None:
    """Send standard error through a small process that translates gRPC's handshake lines.

    A process and not a thread: what a dying SuperLink writes must still come out. Call before gRPC is
    imported and before the first thread; it forks. `loopback`: report who leaves there, too.
    """
    if "grpc" in sys.modules:
        raise RuntimeError("make_handshakes_readable comes too late: gRPC has read its settings")
    os.environ["GRPC_VERBOSITY"] = "info"
    os.environ["GRPC_TRACE"] = "handshaker"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # The terminal's Ctrl-C and a service manager's stop go to the SuperLink; this ends with its last line.
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(name, signal.SIG_IGN)
        os.close(writer)
        with contextlib.suppress(OSError):
            _translate(reader, loopback)
        os._exit(0)
    os.close(reader)
    original = os.dup(2)
    os.dup2(writer, 2)
    os.close(writer)

    def drain() -> None:
        os.dup2(original, 2)  # closes our end; others (flower-superexec) may still hold theirs
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
            time.sleep(0.01)

    atexit.register(drain)


def _translate(reader: int, loopback: bool) -> None:
    handshakes = Handshakes(time.monotonic, loopback=loopback)
    with os.fdopen(reader, "rb") as lines:
        for raw in lines:
            if (line := handshakes.line(raw.decode(errors="replace"))) is not None:
                os.write(2, line.encode())


class _Log:
    """Says the same refusal once a minute: what outsiders do must not fill the disk."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def refused(self, context: "grpc.ServicerContext", reason: str) -> None:
        from flwr.supercore import log

        peer = str(context.peer()).removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0]
        line, now = f"Refused {peer or 'a client'}: {reason}", time.monotonic()
        if len(self._said) > 1000:
            self._said.clear()
        if now - self._said.get(line, -_QUIET_S) >= _QUIET_S:
            self._said[line] = now
            log(WARNING, line)


def _interceptor_class(registry: Path | None) -> type:
    import grpc
    from flwr.common.constant import PUBLIC_KEY_HEADER
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest, RegisterNodeFleetRequest
    from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import NodeAuthServerInterceptor
    from flwr.supercore import log
    from flwr.supercore.utils import get_metadata_bytes

    from app.fleet.members import key_fingerprint

    refusals = _Log()

    class AdmissionInterceptor(NodeAuthServerInterceptor):
        """Flower's node authentication with the key bound to the node and a reason for each refusal."""

        def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
            if not details.method.startswith("/flwr.proto.Fleet/"):
                return continuation(details)
            key = get_metadata_bytes(details.invocation_metadata, PUBLIC_KEY_HEADER) or b""
            try:
                handler = super().intercept_service(continuation, details)
            except Exception:  # metadata from outside: no key, a key of another kind, no date
                return _refuse("its authentication metadata cannot be read")
            if handler is None:
                return None
            inner = handler.unary_unary

            def admit(request: Any, context: grpc.ServicerContext) -> Any:
                if isinstance(request, RegisterNodeFleetRequest):
                    _abort(context, "it brought no key of its own (`bouquet node-key`, `bouquet enroll`)")
                if isinstance(request, ActivateNodeRequest):
                    if request.public_key != key:
                        _abort(context, "it asked to activate a key that is not its own")
                    reason, name = self._standing(key)
                    if reason:
                        _abort(context, reason)
                    response = inner(request, context)
                    log(INFO, "%s is online (node %s)", name, response.node_id)
                    self._note_names()
                    return response
                if isinstance(request, PushMessagesRequest) and [
                    message.metadata.src_node_id for message in request.messages_list
                ] != [request.node.node_id]:
                    _abort(context, "it sent a reply in another node's name")
                return inner(request, _Reasoned(context, lambda: self._standing(key)[0]))

            return grpc.unary_unary_rpc_method_handler(
                admit,
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )

        def _note_names(self) -> None:
            if registry is None:
                return
            nodes = self.state_factory.state().get_node_info()
            names = {str(node.node_id): node.name for node in nodes if node.name}
            try:
                write_atomically(registry, json.dumps(names, indent=1).encode(), PUBLIC)
            except OSError as error:  # names serve people only
                log(WARNING, "%s cannot be written: %s", registry, error.strerror)

        def _standing(self, key: bytes) -> tuple[str, str]:
            """Why this key may not come in (empty: it may) and the client's name."""
            for node in self.state_factory.state().get_node_info():
                if node.public_key == key:
                    name = node.name or f"node {node.node_id}"
                    if node.status == "unregistered":
                        return f"the key of {name} was revoked", name
                    if node.status == "online":
                        return (
                            f"{name} is online already with the same key "
                            "(a client that died is taken for online up to 60 s)",
                            name,
                        )
                    return "", name
            try:
                shown = key_fingerprint(key)
            except Exception:  # any bytes can stand there
                shown = "unreadable"
            return f"its key {shown} is not enrolled (`bouquet enroll NAME KEY.pub`)", ""

    class _Reasoned:
        """A context whose refusal of an authenticated call says why."""

        def __init__(self, context: grpc.ServicerContext, standing: Callable[[], str]) -> None:
            self._context, self._standing = context, standing

        def __getattr__(self, name: str) -> Any:
            return getattr(self._context, name)

        def abort(self, code: grpc.StatusCode, details: str) -> None:
            if code != grpc.StatusCode.UNAUTHENTICATED:
                self._context.abort(code, details)
            reason = details
            if details == "Invalid node ID":
                standing = self._standing()
                reason = standing if "online already" not in standing else "it spoke for another node"
                reason = reason or "it spoke for another node"
            refusals.refused(self._context, reason)
            # The status stays: with it a SuperNode ends at once instead of trying again.
            self._context.abort(code, f"Refused: {reason}")

    def _abort(context: grpc.ServicerContext, reason: str) -> None:
        refusals.refused(context, reason)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"Refused: {reason}")

    def _refuse(reason: str) -> Any:
        def terminate(_request: Any, context: grpc.ServicerContext) -> None:
            refusals.refused(context, reason)
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"Refused: {reason}")

        return grpc.unary_unary_rpc_method_handler(terminate)

    return AdmissionInterceptor
