"""Knocking at a SuperLink's door: name, port, TLS, certificate, and whether this client is let in. It is no rule.

The dates of certificates are looked at apart from the handshake, so a clock that is wrong hides no other mistake.
"""

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from app.environment import UNIX
from app.errors import UserError
from app.fleet.deployment import SuperNodeSettings
from app.fleet.host import ports
from app.fleet.identity import hand_out, keys
from app.fleet.identity.client_certificates import client_certificate

PATIENCE_S = 3.0
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h
HOSTNAME_MISMATCH, ADDRESS_MISMATCH = 62, 64  # X509_V_ERR_* of openssl/x509_vfy.h


@dataclass
class Door:
    """How far a client came.

    Attributes:
        unknown_host: why the name cannot be resolved; empty where it can.
        closed: why nothing answers at the port; empty where something does.
        refused: whether it was refused at once, by a host that is up.
        no_tls: why no TLS was agreed; empty where it was, or is not wanted.
        is_named: whether the server's certificate names the host that was dialled.
        certificate: the server's; None without TLS.
        lets_in: whether the server accepts this client's certificate.
    """

    unknown_host: str = ""
    closed: str = ""
    refused: bool = False
    no_tls: str = ""
    is_named: bool = True
    certificate: x509.Certificate | None = None
    lets_in: bool = True


def knock(client: SuperNodeSettings) -> Door:
    """Go as far as a SuperNode with these settings would."""
    door, address = Door(), client.superlink
    if not address.startswith(UNIX):
        try:
            socket.getaddrinfo(*ports.split(address), type=socket.SOCK_STREAM)
        except OSError as error:
            door.unknown_host = error.strerror or str(error)
            return door
    try:
        connection = ports.connect(address, PATIENCE_S)
    except OSError as error:
        door.closed = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        door.refused = isinstance(error, ConnectionRefusedError)
        return door
    with connection:
        if client.ca is not None:
            _agree(door, connection, client)
    return door


def _agree(door: Door, connection: socket.socket, client: SuperNodeSettings) -> None:
    assert client.ca is not None
    host = ports.split(client.superlink)[0]
    try:
        with _context(client.ca, client.key).wrap_socket(connection, server_hostname=host) as session:
            door.certificate = _shown(session)
            door.lets_in = _is_let_in(session)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code not in (HOSTNAME_MISMATCH, ADDRESS_MISMATCH):
            door.no_tls = error.verify_message or str(error)
            return
        door.is_named = False
        _look_without_a_name(door, client)
    except OSError as error:
        door.no_tls = getattr(error, "reason", "") or error.strerror or str(error)


def _look_without_a_name(door: Door, client: SuperNodeSettings) -> None:
    """Once more, for the certificate that names another host."""
    assert client.ca is not None
    context = _context(client.ca, client.key)
    context.check_hostname = False
    try:
        with (
            ports.connect(client.superlink, PATIENCE_S) as connection,
            context.wrap_socket(connection) as session,
        ):
            door.certificate = _shown(session)
            _is_let_in(session)
    except OSError as error:
        door.no_tls = str(error)


def _context(ca: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    context.set_alpn_protocols(["h2"])
    if key is not None and key.suffix != hand_out.SUFFIX:
        with suppress(UserError):  # another rule tells what is wrong with the key
            ports.show(context, client_certificate(keys.load_node_key(key)[0], any_clock=True))
    return context


def _shown(session: ssl.SSLSocket) -> x509.Certificate:
    der = session.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def _is_let_in(session: ssl.SSLSocket) -> bool:
    """Whether the server speaks first, as HTTP/2 has it, or closes the connection (``ports.wait_for_superlink``)."""
    try:
        return session.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False
