"""The interceptor that ``admission.py`` puts in front of the Fleet API, which imports it late."""

import json
from collections.abc import Callable
from contextlib import suppress
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

import grpc
from flwr.common.constant import PUBLIC_KEY_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import NodeAuthServerInterceptor
from flwr.supercore import log
from flwr.supercore.utils import get_metadata_bytes

from app.files import PUBLIC, write_atomically
from app.fleet.fleet_api.context import CallContext, Details, Refused
from app.fleet.identity.members import key_fingerprint, name_and_bound, shown_name
from app.fleet.quiet import Quiet

_quiet = Quiet()


def _log_refusal(peer: str, reason: str) -> None:
    host = peer.removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0]
    line = f"Refused {host or 'a client'}: {reason}"
    if _quiet.is_new(line, host):
        log(WARNING, line)


def _refused(details: Details, reason: str) -> Refused:
    _log_refusal(details.peer, reason)
    # With this status a SuperNode ends at once instead of trying again.
    return Refused(grpc.StatusCode.UNAUTHENTICATED, f"Refused: {reason}")


class AdmissionInterceptor(NodeAuthServerInterceptor):
    """Flower's node authentication with the key bound to the node and a reason for each refusal.

    A caller whose key is not enrolled gets a :class:`Refused` before the body of its call is read.

    Attributes:
        registry: file that takes the names of the nodes; None for none.
    """

    registry: Path | None = None

    def intercept_service(self, continuation: Callable[[Any], Any], details: Details) -> Any:
        if not details.method.startswith("/flwr.proto.Fleet/"):
            return continuation(details)
        if details.method.endswith("/RegisterNode"):
            raise _refused(details, "it brought no key of its own (`bouquet node-key`, `bouquet enroll`)")
        key = get_metadata_bytes(details.invocation_metadata, PUBLIC_KEY_HEADER) or b""
        verified = False

        def go_on(details: Details) -> Any:
            nonlocal verified
            verified = True
            return continuation(details)

        try:
            handler = super().intercept_service(go_on, details)
        except Exception:  # metadata from outside: a key of another kind, no date
            raise _refused(details, "its authentication metadata cannot be read") from None
        if not verified:
            raise _refused(details, _words(handler))
        if self.state_factory.state().get_node_id_by_public_key(key) is None:
            raise _refused(details, self._standing(key)[0])
        return self._with_admission(handler, key)

    def _with_admission(self, handler: Any, key: bytes) -> Any:
        """The handler of an enrolled caller, with a look at what it asks for."""
        inner = handler.unary_unary

        def admit(request: Any, context: CallContext) -> Any:
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
            if isinstance(request, PushMessagesRequest) and any(
                message.metadata.src_node_id != request.node.node_id for message in request.messages_list[:1]
            ):
                _abort(context, "it sent a reply in another node's name")
            return inner(request, _Reasoned(context, lambda: self._standing(key)[0]))

        return grpc.unary_unary_rpc_method_handler(
            admit,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _note_names(self) -> None:
        if self.registry is None:
            return
        nodes = self.state_factory.state().get_node_info()
        known = {}
        for node in nodes:
            name, bound = name_and_bound(node.name)
            if name:
                known[node.node_id] = {"name": name} | ({} if bound is None else {"max-examples": bound})
        try:
            write_atomically(self.registry, json.dumps(known, indent=1).encode(), PUBLIC)
        except OSError as error:  # what it held before is still there
            log(WARNING, "%s cannot be written: %s", self.registry, error.strerror)

    def _standing(self, key: bytes) -> tuple[str, str]:
        """Why this key may not come in (empty: it may) and the client's name."""
        for node in self.state_factory.state().get_node_info():
            if node.public_key == key:
                name = shown_name(node)
                if node.status == "unregistered":
                    return f"the key of {name} was revoked", name
                if node.status == "online":
                    return (
                        f"{name} is online already with the same key "
                        "(one that has died counts as online until BOUQUET_LOST_AFTER is over)",
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

    def __init__(self, context: CallContext, standing: Callable[[], str]) -> None:
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
        _log_refusal(self._context.peer(), reason)
        # The status stays: with it a SuperNode ends at once instead of trying again.
        self._context.abort(code, f"Refused: {reason}")


def _abort(context: CallContext, reason: str) -> None:
    _log_refusal(context.peer(), reason)
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"Refused: {reason}")


def _words(refusal: grpc.RpcMethodHandler) -> str:
    """The reason in a handler of Flower's that only refuses."""
    context = CallContext(Details("", (), ""))
    with suppress(Exception):
        refusal.unary_unary(None, context)
    return context.details()
