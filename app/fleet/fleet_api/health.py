"""Whether the Fleet API works: on a port of loopback, answered by a real call of the Fleet API.

Each connection to the port makes one call from here to the Fleet API, through its TLS, its event loop, its workers and
its state, and is told ``SERVING`` or ``NOT_SERVING``. A shell can ask:

    bash -c 'exec 3<>/dev/tcp/127.0.0.1/9096 && read -rt 8 state <&3 && [ "$state" = SERVING ]'

A process that hangs says nothing, and one that has died does not listen.
"""

import asyncio
import hmac
import secrets
from collections.abc import Callable
from contextlib import suppress

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.fleet.fleet_api.context import Details, Refused
from app.fleet.identity.certificates import certificate_names
from app.fleet.identity.client_certificates import client_certificate

METHOD = "/bouquet.Fleet/Health"
TIMEOUT_S = 5.0
_TOKEN = "bouquet-health"


class Health:
    """Asks the Fleet API of this process. Its key and its token are made anew at each start, and stay in memory."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look, self._token = look, secrets.token_hex(32)
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_key(self) -> bytes:
        """The key that must be let in, as PEM."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def answer(self, details: Details) -> bytes:
        """The server's side of the call: look at the state. Raises Refused for anyone else's call."""
        given = next((value for key, value in details.invocation_metadata if key == _TOKEN), "")
        if not hmac.compare_digest(str(given), self._token):
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "Refused: it is not this SuperLink")
        self._look()
        return b""

    async def serve(self, port: int, address: str, ca: bytes | None, certificate: bytes) -> asyncio.Server:
        """Listen on ``port`` of loopback; ``address`` and the certificates are those of the Fleet API."""
        channel = self._channel(address, ca, certificate)
        ask = channel.unary_unary(METHOD)

        async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            state = b"SERVING\n"
            try:
                await ask(b"", timeout=TIMEOUT_S, metadata=((_TOKEN, self._token),))
            except grpc.RpcError:
                state = b"NOT_SERVING\n"
            with suppress(OSError):
                writer.write(state)
                await writer.drain()
            writer.close()

        return await asyncio.start_server(greet, "127.0.0.1", port)

    def _channel(self, address: str, ca: bytes | None, certificate: bytes) -> grpc.aio.Channel:
        if ca is None:
            return grpc.aio.insecure_channel(address)
        [name, *_] = certificate_names(x509.load_pem_x509_certificate(certificate))
        credentials = grpc.ssl_channel_credentials(ca, *client_certificate(self._key))
        return grpc.aio.secure_channel(
            address, credentials, options=[("grpc.ssl_target_name_override", name)]
        )
