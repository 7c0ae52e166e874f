"""TLS of the Fleet API: only who has an enrolled key completes the handshake."""

from collections.abc import Callable

import grpc

from app.fleet.identity.client_certificates import trust_anchors

Pair = tuple[bytes, bytes]  # private key and certificate, as PEM


def server_credentials(
    pair: Pair, members: Callable[[], frozenset[bytes]], *, client_certificates: bool
) -> grpc.ServerCredentials:
    """The credentials of a server whose members come and go.

    Args:
        pair: the server's own.
        members: the public keys (PEM) that may connect now. It is asked at each new connection.
        client_certificates: whether a client must show a certificate; if not, anyone connects.
    """
    if not client_certificates:
        return grpc.ssl_server_credentials([pair])

    def configuration(keys: frozenset[bytes]) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([pair], trust_anchors(sorted(keys)))

    known = members()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal known
        if (now := members()) == known:
            return None  # as before
        known = now
        return configuration(now)

    return grpc.dynamic_ssl_server_credentials(configuration(known), changed, True)
