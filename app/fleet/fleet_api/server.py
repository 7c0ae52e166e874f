"""The server of the Fleet API, in a thread with an event loop of its own. If it dies, the process ends."""

import asyncio
import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import grpc

from app.fleet.fleet_api.calls import FleetCalls
from app.fleet.fleet_api.connections import RESERVED_FILES, raise_file_limit
from app.fleet.fleet_api.health import Health
from app.fleet.fleet_api.tls import Pair

HANDSHAKE_S = 10
IDLE_S = 300  # a SuperNode has a request held, or sends a heartbeat each 30 s
SERVER_DIED = 70  # EX_SOFTWARE of sysexits.h


@dataclass(frozen=True)
class Endpoint:
    """Where the Fleet API listens.

    Attributes:
        address: host:port.
        credentials: TLS; None for plaintext.
        ca: the certificate that this server's is signed by, as PEM; None for plaintext.
        pair: the server's key and certificate; None for plaintext.
        largest: bytes of the largest call.
        health_port: port on loopback that tells whether the Fleet API works; 0 for none.
    """

    address: str
    credentials: grpc.ServerCredentials | None
    ca: bytes | None
    pair: Pair | None
    largest: int
    health_port: int


class FleetServer:
    """Stands for grpc.Server where Flower keeps the Fleet API's."""

    def __init__(self, endpoint: Endpoint, calls: FleetCalls, health: Health) -> None:
        self._endpoint, self._calls, self._health = endpoint, calls, health
        self._listening: Future[str] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    def start(self) -> str:
        """Start serving; returns host:port. Raises RuntimeError where the port cannot be used."""
        threading.Thread(target=self._run, name="fleet-api", daemon=True).start()
        return self._listening.result()

    def stop(self, grace: float | None = None) -> None:
        """End the server. What is under way ends with it: gRPC's own ``grace`` would wait for requests that are held."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ended.set)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if not self._listening.done():
                self._listening.set_exception(error)
                return
            print(
                f"error: the Fleet API has died ({type(error).__name__}: {error}); the SuperLink ends",
                file=sys.stderr,
                flush=True,
            )
            os._exit(SERVER_DIED)

    async def _serve(self) -> None:
        endpoint, self._loop = self._endpoint, asyncio.get_running_loop()
        server = grpc.aio.server(options=list(_options(endpoint.largest).items()))
        server.add_generic_rpc_handlers((self._calls,))
        if endpoint.credentials is None:
            port = server.add_insecure_port(endpoint.address)
        else:
            port = server.add_secure_port(endpoint.address, endpoint.credentials)
        await server.start()
        host = endpoint.address.rpartition(":")[0]
        if endpoint.health_port:
            here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
            certificate = endpoint.pair[1] if endpoint.pair else b""
            await self._health.serve(endpoint.health_port, f"{here}:{port}", endpoint.ca, certificate)
        self._listening.set_result(f"{host}:{port}")
        await self._ended.wait()
        await server.stop(None)


def _options(largest: int) -> Mapping[str, int]:
    """gRPC's settings of the server."""
    return {
        "grpc.max_receive_message_length": largest,
        "grpc.max_send_message_length": -1,
        "grpc.max_concurrent_streams": 100,
        "grpc.so_reuseport": 0,  # or a second SuperLink could take half of the clients
        "grpc.server_handshake_timeout_ms": HANDSHAKE_S * 1000,
        "grpc.max_connection_idle_ms": IDLE_S * 1000,
        "grpc.max_allowed_incoming_connections": max(64, raise_file_limit() - RESERVED_FILES),
        # As Flower sets them: cloud providers drop connections that are silent for four minutes.
        "grpc.keepalive_time_ms": 210_000,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.keepalive_permit_without_calls": 0,
    }
