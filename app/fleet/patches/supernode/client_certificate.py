"""A SuperNode shows a certificate of its own in the TLS handshake, over the node key that it signs its calls with.

The certificate is made here and lives in memory (``app/fleet/identity/client_certificates.py``). At half of its life a new
channel with a new one takes over, so nobody has to restart a client.

Read in flwr 1.39.0: ``client/grpc_rere_client/connection.py``, ``supercore/grpc.py``. An intercepted channel asks the
channel below for a new callable at each call (grpcio 1.85, ``_interceptor.py``), so the latest channel serves the next call.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from app.fleet.identity import client_certificates
from app.fleet.patches.registry import Flower, Patch
from app.fleet.patches.supernode.reconnect import CHANNEL

_CHANNEL = "flwr.client.grpc_rere_client.connection:create_channel"


class RenewedChannel:
    """Stands for grpc.Channel under interceptors: the channel that ``make`` returns, anew every ``renew_s`` seconds.

    Calls that are under way keep their channel. It is closed when the next but one takes over.
    """

    def __init__(
        self, make: Callable[[], Any], renew_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._make, self._renew_s, self._clock = make, renew_s, clock
        self._lock = threading.Lock()
        self._channels = [make()]
        self._made = clock()

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """A callable of the latest channel."""
        with self._lock:
            if self._clock() - self._made >= self._renew_s:
                self._channels.append(self._make())
                self._made = self._clock()
                for old in self._channels[:-2]:
                    old.close()
                del self._channels[:-2]
            return self._channels[-1].unary_unary(*arguments, **options)

    def subscribe(self, callback: Callable[[Any], None], try_to_connect: bool = False) -> None:
        """Watch the connectivity of the first channel, for Flower's debug lines."""
        self._channels[0].subscribe(callback, try_to_connect)

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            for channel in self._channels:
                channel.close()


def apply(flower: Flower, context: Any) -> None:
    """Let this process's channel to the SuperLink show a certificate. ``context.key`` is the file of the node key."""
    import grpc

    from app.fleet.identity.keys import load_node_key

    stock = flower[_CHANNEL]
    key, _ = load_node_key(context.key)

    def create_channel(
        server_address: str,
        insecure: bool,
        root_certificates: bytes | None = None,
        max_message_length: int = -1,
        interceptors: Any = None,
    ) -> Any:
        if insecure or not interceptors:
            return stock(server_address, insecure, root_certificates, max_message_length, interceptors)
        sizes = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
        options = [*((size, max_message_length) for size in sizes), *CHANNEL]

        def make() -> grpc.Channel:
            pair = client_certificates.client_certificate(key)
            credentials = grpc.ssl_channel_credentials(root_certificates, *pair)
            return grpc.secure_channel(server_address, credentials, options=options)

        half_life = client_certificates.LIFETIME.total_seconds() / 2
        return grpc.intercept_channel(RenewedChannel(make, half_life), *interceptors)

    flower.replace(_CHANNEL, create_channel)


PATCH = Patch(
    name="client-certificate",
    process="supernode",
    purpose="a client shows a certificate over its node key, and renews it by itself",
    without="a SuperLink lets this client in with CLIENT_CERTIFICATES=optional only",
    only_with="key",
    needs={_CHANNEL: "6d71819bdc98"},
    apply=apply,
)
