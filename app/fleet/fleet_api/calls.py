"""One call of the Fleet API: who calls is known before a body is read, and no caller takes more than its share.

An event loop reads, holds and answers; Flower's handlers run in a few worker threads. So a call that waits, for its
body or for work, costs no thread.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from flwr.common.constant import PUBLIC_KEY_HEADER
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from app.fleet.fleet_api.connections import MemberConnections, end_connection
from app.fleet.fleet_api.context import CallContext, Details, Refused
from app.fleet.identity.client_certificates import certified_key

log = logging.getLogger("flwr")

Admitted = Callable[[Any, CallContext], Any]
Local = Callable[[Details], bytes | Callable[[bytes], bytes]]  # answers, or wants the body

WORKERS = 16
# A SuperNode makes five calls at once at most: work, heartbeat, and two objects each way.
CALLS_PER_NODE = 16
LARGE_AT_ONCE, SMALL_AT_ONCE = 2, 4  # of one node: calls whose body is read or worked on
LARGE = "/flwr.proto.Fleet/PushObject"  # alone in carrying a model; gRPC's own limit holds for it
MOST_BYTES = {"/flwr.proto.Fleet/PushMessages": 2 * 1024 * 1024}  # a tree of 20,000 objects has 1.4 MiB
MOST_BYTES_OF_OTHERS = 64 * 1024
RECHECK_S = 5.0  # a held request looks again: for what is not signalled, and whether its node still belongs
GOODBYE_S = 1.0  # for the reason to reach a refused caller


@dataclass
class _Node:
    """The calls of one node that are under way."""

    calls: int = 0
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LARGE_AT_ONCE))
    small: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SMALL_AT_ONCE))
    held: asyncio.Event | None = None  # wakes the request that is held


class FleetCalls(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers the calls of a Fleet API.

    Args:
        handlers: Flower's handlers by the full name of their method.
        interceptors: Flower's, outermost first; one that refuses raises :class:`Refused`.
        local: handlers of Bouquet's own calls; they bring their own check. One that wants the body returns what takes it.
        certified: whether callers have shown a certificate, whose key must be the one that signs.
    """

    def __init__(
        self,
        handlers: Mapping[str, grpc.RpcMethodHandler],
        interceptors: Sequence[grpc.ServerInterceptor],
        local: Mapping[str, Local],
        *,
        certified: bool,
    ) -> None:
        self._handlers, self._interceptors, self._local = handlers, interceptors, local
        self._certified = certified
        self._connections = MemberConnections()
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="fleet-api")
        self._nodes: dict[bytes, _Node] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """How a method is answered: by a handler that reads the body itself, when it wants to."""
        if details.method not in self._handlers and details.method not in self._local:
            return None

        async def serve(_bodies: Any, context: grpc.aio.ServicerContext) -> bytes:
            return await self._serve(details.method, context)

        return grpc.stream_unary_rpc_method_handler(serve)

    async def _serve(self, method: str, context: grpc.aio.ServicerContext) -> bytes:
        details = Details(method, tuple(context.invocation_metadata()), context.peer())
        call = CallContext(details)
        try:
            if method in self._local:
                answer: bytes = await self._answer_here(details, call, context)
            else:
                answer = await self._answer(details, call, context)
        except asyncio.CancelledError:
            call.active = False
            raise
        except Refused as refusal:
            self._end(details.peer)
            await context.abort(refusal.code, refusal.details)
        except Exception as error:
            if (code := call.code()) is None:
                code, words = grpc.StatusCode.UNKNOWN, f"Exception calling application: {error}"
                log.exception("%s failed", method)
            else:
                words = call.details()
            if code is grpc.StatusCode.UNAUTHENTICATED:  # revoked while it was connected
                self._end(details.peer)
            await context.abort(code, words, call.trailing)
        context.set_trailing_metadata(call.trailing)
        return answer

    async def _answer_here(
        self, details: Details, call: CallContext, context: grpc.aio.ServicerContext
    ) -> bytes:
        """A call of Bouquet's own."""
        answer = await self._work(self._local[details.method], details)
        if isinstance(answer, bytes):
            return answer
        self._key(details, context)
        taken: bytes = await self._work(answer, await _body(call, context, MOST_BYTES_OF_OTHERS))
        return taken

    def _end(self, peer: str) -> None:
        """End the connection of a caller who is refused, once it has heard so."""
        loop = asyncio.get_running_loop()
        loop.call_later(GOODBYE_S, loop.run_in_executor, self._workers, end_connection, peer)

    async def _answer(self, details: Details, call: CallContext, context: grpc.aio.ServicerContext) -> bytes:
        key = self._key(details, context)
        handler = await self._work(self._admit, details)
        if self._certified and (surplus := self._connections.called(key, details.peer)):
            await self._work(end_connection, surplus)
        node = self._nodes.setdefault(key, _Node())
        large = details.method == LARGE
        if node.calls >= CALLS_PER_NODE:
            call.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {CALLS_PER_NODE} calls at once")
        node.calls += 1
        try:
            async with node.large if large else node.small:
                most = None if large else MOST_BYTES.get(details.method, MOST_BYTES_OF_OTHERS)
                body = await _body(call, context, most)
                parse = partial(_parse, handler, body, call)
                del body
                request = await self._work(parse) if large else parse()
                del parse
                ask = partial(_run, handler, request, call)
                answer: bytes = await self._work(ask)
            if call.later is not None:
                answer = await self._hold(node, call, ask, answer)
            return answer
        finally:
            node.calls -= 1
            if not node.calls:
                self._nodes.pop(key, None)

    async def _hold(self, node: _Node, call: CallContext, ask: Callable[[], bytes], answer: bytes) -> bytes:
        """Ask again whenever something arrives. One request of a node is held: a newer one ends the older."""
        if node.held is not None:
            node.held.set()
        wake = node.held = asyncio.Event()
        loop, deadline = asyncio.get_running_loop(), time.monotonic() + call.hold_s

        def ring() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(wake.set)

        try:
            while call.later and node.held is wake and (left := deadline - time.monotonic()) > 0:
                forget = call.later(ring)
                try:
                    await asyncio.wait_for(wake.wait(), min(left, RECHECK_S))
                except TimeoutError:
                    pass
                finally:
                    forget()
                wake.clear()
                if node.held is wake:
                    call.later = None
                    answer = await self._work(ask)
            return answer
        finally:
            if node.held is wake:
                node.held = None

    def _key(self, details: Details, context: grpc.aio.ServicerContext) -> bytes:
        """The key that the caller says it has; with a certificate, the one that it has proved to have."""
        signer = next((v for k, v in details.invocation_metadata if k == PUBLIC_KEY_HEADER), b"")
        signer = signer.encode() if isinstance(signer, str) else signer
        if self._certified:
            [certificate] = context.auth_context()["x509_pem_cert"]
            if signer != certified_key(bytes(certificate)):
                raise Refused(
                    grpc.StatusCode.UNAUTHENTICATED,
                    "Refused: it signs with another key than that of its certificate",
                )
        return signer

    def _admit(self, details: Details) -> grpc.RpcMethodHandler:
        """Ask the interceptors, outermost first, and return the handler that they let through."""

        def ask(number: int, details: Any) -> grpc.RpcMethodHandler:
            if number == len(self._interceptors):
                return self._handlers[details.method]
            return self._interceptors[number].intercept_service(partial(ask, number + 1), details)

        return ask(0, details)

    async def _work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)


async def _body(call: CallContext, context: grpc.aio.ServicerContext, most: int | None) -> bytes:
    """The body of a call, of at most ``most`` bytes."""
    body: bytes = await context.read()
    if body is grpc.aio.EOF:
        call.abort(grpc.StatusCode.CANCELLED, "the call has no body")
    if most is not None and len(body) > most:
        call.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"a body larger than max: {most} bytes")
    return body


def _parse(handler: grpc.RpcMethodHandler, body: bytes, call: CallContext) -> Any:
    try:
        return handler.request_deserializer(body)
    except DecodeError:
        call.abort(grpc.StatusCode.INVALID_ARGUMENT, "the body of the call cannot be read")


def _run(handler: grpc.RpcMethodHandler, request: Any, call: CallContext) -> bytes:
    answer: bytes = handler.response_serializer(handler.unary_unary(request, call))
    return answer
