"""A small web server for metrics, which a stranger who reaches it can neither fill nor hold."""

import socket
import threading
from collections import deque
from contextlib import suppress
from http.server import HTTPServer
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

MOST_CONNECTIONS = 8
LONGEST_S = 10.0  # a connection, whatever is sent on it


class Server(ThreadingMixIn, HTTPServer):
    """Serves a registry.

    At most eight connections are open. One more ends the eldest, so those that are held open keep nobody out. Each ends
    after ten seconds.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _handler(registry))
        self._open: deque[socket.socket] = deque()
        self._lock = threading.Lock()

    def server_bind(self) -> None:
        """Bind, and ask no name service for this host's own name, as an ``HTTPServer`` does."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own."""
        with self._lock:
            self._open.append(request)
            eldest = self._open.popleft() if len(self._open) > MOST_CONNECTIONS else None
        if eldest is not None:
            _end(eldest)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer it, with an end to its time."""
        alarm = threading.Timer(LONGEST_S, _end, [request])
        alarm.daemon = True
        alarm.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            alarm.cancel()
            with self._lock, suppress(ValueError):
                self._open.remove(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off is nobody's business."""


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _handler(registry: CollectorRegistry) -> type[MetricsHandler]:
    class Handler(MetricsHandler.factory(registry)):  # type: ignore[misc]
        """Metrics at ``/metrics``, and nothing elsewhere."""

        timeout = LONGEST_S
        server_version, sys_version = "Bouquet", ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] == "/metrics":
                super().do_GET()
            else:
                self.send_error(404, "Metrics are at /metrics")

    return Handler


def serve(host: str, port: int, registry: CollectorRegistry) -> Server:
    """Listen, and answer in the background. Raises OSError where the address cannot be used."""
    server = Server(host, port, registry)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
