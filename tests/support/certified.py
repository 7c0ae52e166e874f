"""A gRPC channel to a Fleet API that shows a client's certificate, as a SuperNode of Bouquet does."""

from pathlib import Path

import grpc

from app.fleet.identity.client_certificates import client_certificate
from app.fleet.identity.keys import load_node_key


def certified_channel(port: int, ca: Path, key: Path | None) -> grpc.Channel:
    """A channel to a port of loopback; ``key``: file of the node key, None to show no certificate."""
    pair = client_certificate(load_node_key(key)[0]) if key is not None else ()
    credentials = grpc.ssl_channel_credentials(ca.read_bytes(), *pair)
    return grpc.secure_channel(
        f"localhost:{port}", credentials, options=[("grpc.max_send_message_length", -1)]
    )
