"""Who makes a call of Bouquet's own: a member signs a moment with its node key, as in every call of Flower's."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpc

from app.fleet.fleet_api.context import Details, Refused
from app.fleet.identity.client_certificates import client_certificate
from app.fleet.identity.members import shown_name


def member_of(nodes: Callable[[], Iterable[Any]], details: Details) -> str:
    """The name of the member that calls. Its clock does not matter. Raises Refused for anyone else."""
    from flwr.common.constant import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
    from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

    given: dict[str, Any] = dict(details.invocation_metadata)
    key = given.get(PUBLIC_KEY_HEADER)
    try:
        moment, signature = given[TIMESTAMP_HEADER].encode("ascii"), given[SIGNATURE_HEADER]
        is_signed = verify_signature(bytes_to_public_key(given[PUBLIC_KEY_HEADER]), moment, signature)
    except Exception:  # metadata from outside
        is_signed = False
    for node in nodes() if is_signed else ():
        if node.public_key == key and node.status != "unregistered":
            return shown_name(node)
    raise Refused(grpc.StatusCode.UNAUTHENTICATED, "Refused: its key is not enrolled")


def channel_of_member(
    address: str, ca: Path | None, keys: tuple[Any, Any] | None, name: str = ""
) -> grpc.Channel:
    """A channel to the SuperLink at ``host:port`` whose calls a member signs.

    Args:
        address: where.
        ca: file of the CA's certificate; None for plaintext.
        keys: the client's private and public key; None for plaintext.
        name: a name in the server's certificate, where ``address`` has another.
    """
    from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor

    options = [("grpc.ssl_target_name_override", name)] if name else []
    if ca is None or keys is None:
        return grpc.insecure_channel(address, options)
    pair = client_certificate(keys[0], any_clock=True)
    credentials = grpc.ssl_channel_credentials(ca.read_bytes(), *pair)
    return grpc.intercept_channel(
        grpc.secure_channel(address, credentials, options), NodeAuthClientInterceptor(*keys)
    )
