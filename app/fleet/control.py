"""The client of the SuperLink's Control API, through which a person starts runs and manages members."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.environment import UNIX
from app.errors import UserError

if TYPE_CHECKING:
    import httpx
    from flwr.supercore.control import ControlHttpClient


class ConnectionLost(UserError):
    """Nothing answers at the Control API, or no longer."""


@dataclass(frozen=True)
class Connection:
    """How the Control API is reached. It serves the SuperLink's own user and root.

    Attributes:
        address: host:port on loopback, or ``unix:FILE``.
        ca: the federation's ca.crt; None for a SuperLink without TLS.
    """

    address: str = "127.0.0.1:8000"
    ca: Path | None = None


@contextmanager
def control(connection: Connection) -> Iterator["ControlHttpClient"]:
    """Flower's client of the Control API, closed at the end. Each of its errors becomes a UserError of one line."""
    import httpx
    from flwr.cli.utils import CliClientHttpInterceptor  # type: ignore[attr-defined]
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    where = f"the SuperLink's Control API at {connection.address}"
    if connection.ca is not None and not connection.ca.is_file():
        raise UserError(f"BOUQUET_CA (--ca): {connection.ca} does not exist")
    at_socket = connection.address.startswith(UNIX)
    client = ControlHttpClient.from_server_address(
        # A socket has no name; the server's certificate holds that of loopback.
        server_address="localhost" if at_socket else connection.address,
        insecure=connection.ca is None,
        root_certificates=connection.ca.read_bytes() if connection.ca else None,
        interceptors=[CliClientHttpInterceptor(), RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    if at_socket:
        verify = ssl.create_default_context(cafile=connection.ca) if connection.ca else False
        transport = httpx.HTTPTransport(verify=verify, uds=connection.address.removeprefix(UNIX))
        client._client.close()
        client._client = httpx.Client(transport=transport, timeout=client._client.timeout)
    try:
        yield client
    except httpx.HTTPStatusError as error:
        raise UserError(f"{where} refused: {_reason(error.response)}") from None
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise UserError(
                f"{where} shows a certificate that {connection.ca} did not sign: give its ca.crt"
            ) from None
        raise ConnectionLost(
            f"{where} does not answer: start the SuperLink, and run this on its host (in its container), "
            "because that port is open on loopback only"
        ) from None
    except httpx.RequestError as error:
        if isinstance(error, httpx.RemoteProtocolError | httpx.NetworkError):
            tls = "" if connection.ca else "if it uses TLS, give its ca.crt (BOUQUET_CA, --ca); "
            raise ConnectionLost(
                f"{where} ended the connection: {tls}it serves its own user and root only, and its log says whom it refused"
            ) from None
        raise ConnectionLost(f"{where} broke off ({error}): look at the SuperLink's log") from None
    finally:
        client.close()


def _reason(response: "httpx.Response") -> str:
    """Flower's own words in an error response."""
    try:
        answer = response.json()
        return f"{answer.get('message') or answer} {answer.get('public_details') or ''}".strip()
    except (ValueError, AttributeError):
        return f"status {response.status_code} {response.text[:200]}".strip()
