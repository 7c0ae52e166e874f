"""Ports: a free one, whether one is free, and waiting until one answers."""

import os
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.environment import UNIX
from app.errors import UserError


def unix_address(socket_file: Path) -> str:
    """The address of a socket in the file system. gRPC takes all after ``unix:`` for its path, and Flower wants a port."""
    return f"{UNIX}{socket_file}:0"


def bind_private(socket_file: Path) -> socket.socket:
    """A socket at ``socket_file`` that only this user can connect to, in the place of one that was left. Raises OSError."""
    socket_file.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        bound.bind(str(socket_file))
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(mask)
    return bound


def connect(address: str, timeout_s: float = 5.0) -> socket.socket:
    """A connection to ``host:port``, or to a :func:`unix_address`. Raises OSError."""
    if not address.startswith(UNIX):
        return socket.create_connection(split(address), timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address.removeprefix(UNIX))
    except OSError:
        connection.close()
        raise
    return connection


def split(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 address comes without its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(setting: str, port: int, host: str = "127.0.0.1") -> None:
    """Raise UserError, naming the setting, where ``port`` is taken; 0 stands for any free port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"{setting}: port {port} cannot be used on {host} ({error.strerror}); "
                "stop what listens there or choose another port"
            ) from None


def wait_until_open(
    address: str,
    failed: Callable[[OSError], None],
    greet: Callable[[socket.socket], None] = lambda connection: None,
    pause_s: float = 0.05,
) -> None:
    """Wait until something listens at ``address``.

    Args:
        address: ``host:port`` or a :func:`unix_address`.
        failed: called after each attempt in vain; it raises to give up.
        greet: called with the first connection.
        pause_s: seconds between attempts.
    """
    while True:
        try:
            connection = connect(address)
        except OSError as error:
            failed(error)
            time.sleep(pause_s)
            continue
        with connection, suppress(OSError):
            greet(connection)
        return


def wait_for_superlink(address: str, ca: Path | None, client: tuple[bytes, bytes] | None = None) -> bool:
    """Wait until a SuperLink listens at ``host:port``; Flower's own retries back off to 20 s.

    With ``ca``, the certificate for this SuperLink, the connection ends with a TLS handshake. A connection that ends
    without one looks to the SuperLink like a client that did not accept its certificate.

    Args:
        address: where.
        ca: file of the CA's certificate; None for plaintext.
        client: key and certificate (PEM) that this client shows.

    Returns:
        False where the SuperLink does not accept the client's certificate.
    """
    next_line, accepted = time.monotonic() + 5.0, True

    def failed(error: OSError) -> None:
        nonlocal next_line
        if time.monotonic() >= next_line:
            print(f"waiting for the SuperLink at {address}: {error}", flush=True)
            next_line = time.monotonic() + 30.0

    def greet(connection: socket.socket) -> None:
        nonlocal accepted
        if ca is not None:
            accepted = _greet(connection, split(address)[0], ca, client)

    wait_until_open(address, failed, greet, pause_s=0.2)
    return accepted


def is_refused(address: str, ca: Path, client: tuple[bytes, bytes]) -> bool:
    """Whether the SuperLink at ``host:port`` answers, and does not accept this client's key and certificate (PEM)."""
    try:
        with connect(address) as connection:
            return not _greet(connection, split(address)[0], ca, client)
    except OSError:
        return False  # not there, or not the server that this client trusts


def _greet(connection: socket.socket, host: str, ca: Path, client: tuple[bytes, bytes] | None) -> bool:
    """Complete a TLS handshake and end it; returns whether the server accepts the client's certificate.

    With TLS 1.3 the client has completed the handshake before the server has looked at its certificate. A server that
    accepts it speaks first in HTTP/2; one that does not closes the connection.
    """
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    if client is not None:
        show(context, client)
    with context.wrap_socket(connection, server_hostname=host) as session:
        if client is None:
            return True
        try:
            return session.recv(1) != b""
        except TimeoutError:
            return True  # a slow server has not said no
        except OSError:
            return False


def show(context: ssl.SSLContext, client: tuple[bytes, bytes]) -> None:
    """Let ``context`` show a certificate. Python's ssl takes keys from files only, so this one is in memory."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"".join(client))
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
