"""How long an idle SuperNode sleeps before it asks the SuperLink again, and what wakes it meanwhile.

Stock Flower sleeps 3 s after every empty answer, which is the latency of each phase of each round. Bouquet's
SuperLink holds a request until there is a message (``longpoll.py``), so asking again at once costs nothing.
Against any other SuperLink the pause grows with the time since the last message: a node that just answered
will be asked again soon, an idle one may sleep, and the delay stays a tenth of what was waited anyway.

While it waits, gRPC wakes its threads 110 times a second, three of four times because Flower watches the channel's
connectivity for a debug line; unless that line is printed, it is not watched.

Read in flwr 1.39.0: ``supernode/start_client_internal.py`` calls ``time.sleep(3)`` in its main loop and
``time.sleep(0.5)`` while a reply is being made; ``client/grpc_rere_client/connection.py`` subscribes to its channel.
In grpcio 1.85 a subscription is a thread that asks every 0.2 s.
"""

import logging
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

IDLE_SLEEP_S = 3
SHORTEST_PAUSE_S = 0.05
HELD_S = 1.0  # an empty answer that took this long was held by the SuperLink


def wait_for_port(address: str, ca: Path | None) -> None:
    """Wait until something listens at ``host:port``; Flower's own retries back off to 20 s.

    With ``ca``, the certificate for this SuperLink, it is greeted by a TLS handshake: one who leaves without a word
    looks to it like a client that did not accept its certificate. gRPC says it when that is so.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    next_word = time.monotonic() + 5.0
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=5.0) as connection:
                if ca is not None:
                    _greet(connection, host, ca)
            return
        except OSError as error:
            if time.monotonic() >= next_word:
                print(f"waiting for the SuperLink at {address}: {error}", flush=True)
                next_word = time.monotonic() + 30.0
            time.sleep(0.2)


def _greet(connection: socket.socket, host: str, ca: Path) -> None:
    with suppress(OSError):
        context = ssl.create_default_context(cafile=ca)
        context.set_alpn_protocols(["h2"])
        context.wrap_socket(connection, server_hostname=host).close()


class Pauses:
    """Stands in for the module ``time`` in Flower's SuperNode loop."""

    def __init__(self) -> None:
        self._last_message = self._asked = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def asking(self) -> None:
        """The SuperNode is about to ask for a message."""
        self._asked = time.monotonic()

    def received(self) -> None:
        """A message has been processed."""
        self._last_message = time.monotonic()

    def pause_s(self) -> float:
        """Seconds to sleep after an empty answer."""
        now = time.monotonic()
        if now - self._asked >= HELD_S:
            return 0.0
        return min(max(0.1 * (now - self._last_message), SHORTEST_PAUSE_S), float(IDLE_SLEEP_S))

    def sleep(self, seconds: float) -> None:
        """Sleep as Flower's loop asks, but shorter where it idles."""
        time.sleep(self.pause_s() if seconds == IDLE_SLEEP_S else seconds)


def _leave_the_channel_alone(connection: ModuleType) -> None:
    stock = connection.create_channel

    def create_channel(*args: Any, **kwargs: Any) -> Any:
        channel = stock(*args, **kwargs)
        if all(handler.level > logging.DEBUG for handler in logging.getLogger("flwr").handlers):
            channel.subscribe = lambda *_, **__: None
        return channel

    connection.create_channel = create_channel  # type: ignore[attr-defined]


def install(internal: ModuleType) -> None:
    """Let Flower's SuperNode loop pause adaptively, and its channel rest.

    Args:
        internal: Flower's module ``supernode.start_client_internal``.
    """
    from flwr.client.grpc_rere_client import connection

    if hasattr(connection, "create_channel"):
        _leave_the_channel_alone(connection)
    pauses = Pauses()
    stock = internal._pull_and_store_message

    def pull_and_store_message(**arguments: Any) -> Any:
        pauses.asking()
        run_id = stock(**arguments)
        if run_id is not None:
            pauses.received()
        return run_id

    internal._pull_and_store_message = pull_and_store_message  # type: ignore[attr-defined]
    internal.time = pauses  # type: ignore[attr-defined]
