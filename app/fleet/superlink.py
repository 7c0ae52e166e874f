"""``bouquet superlink``: Flower's SuperLink, closed by default, holding requests instead of being polled."""

import logging
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from app.errors import UserError
from app.fleet import admission, cores, flower, keys


@dataclass(frozen=True)
class SuperLinkSettings:
    """How the SuperLink is run.

    Attributes:
        fleet_address: host:port where SuperNodes dial in (gRPC).
        control_port: port of the Control and Runtime API, always on 127.0.0.1.
        certificates: folder with ca.crt, server.crt and server.key; None for plaintext.
        state: folder where the list of members survives a restart; None to keep it in memory.
        health_port: port of the gRPC health service; 0 for none.
    """

    fleet_address: str = "0.0.0.0:9092"
    control_port: int = 8000
    certificates: Path | None = None
    state: Path | None = None
    health_port: int = 0


def _require_free(host: str, port: int, setting: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"{setting}={host}:{port} cannot be used ({error.strerror}); stop what listens there or choose another port"
            ) from None


def _failed(record: logging.LogRecord) -> bool:
    """Whether an access-log record is of a request that failed; the last of its arguments is the HTTP status."""
    return not (isinstance(record.args, tuple) and record.args and str(record.args[-1]).startswith("2"))


def arguments(settings: SuperLinkSettings, database: Path | None = None) -> list[str]:
    """The command line of ``flower-superlink``; ``database``: a file for all its state, None for memory."""
    command = [
        "--fleet-api-address", settings.fleet_address,
        "--host", "127.0.0.1",
        "--port", str(settings.control_port),
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    if database is not None:
        command += ["--database", str(database)]
    if settings.health_port:
        command += ["--health-server-address", f"0.0.0.0:{settings.health_port}"]
    if settings.certificates is None:
        return [*command, "--insecure"]
    return [
        *command, "--enable-supernode-auth",
        "--ssl-ca-certfile", str(settings.certificates / "ca.crt"),
        "--ssl-certfile", str(settings.certificates / "server.crt"),
        "--ssl-keyfile", str(settings.certificates / "server.key"),
    ]  # fmt: skip


def run(settings: SuperLinkSettings) -> None:
    """Check what can be checked, then become the SuperLink; does not return.

    Raises:
        UserError: a port is taken, or a certificate or key cannot serve.
    """
    host, _, port = settings.fleet_address.rpartition(":")
    if not port.isdigit():
        raise UserError(
            f"--fleet-address={settings.fleet_address!r} has no port; write host:port, such as 0.0.0.0:9092"
        )
    _require_free(host.strip("[]") or "0.0.0.0", int(port), "--fleet-address")
    _require_free("127.0.0.1", settings.control_port, "--control-port")
    if settings.certificates is not None:
        if settings.state is None:
            raise UserError("--certificates needs --state (BOUQUET_STATE): a folder for the list of members")
        keys.check_server_identity(settings.certificates)
    if settings.state is not None:
        settings.state.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("BOUQUET_MEMBERS", str(settings.state / "members.json"))
    flower.prepare_environment()
    os.environ.setdefault("OMP_NUM_THREADS", str(cores.available_cores()))
    # The ServerApp evaluates while the clients do: where they share its cores, threads that spin take what they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.certificates is not None:
        admission.make_handshakes_readable()

    with flower.imports():
        from flwr.superlink.cli.flower_superlink import flower_superlink
        from flwr.superlink.main import create_app  # noqa: F401 (what the SuperLink imports when it runs)

        from app.fleet import link_state, longpoll, object_batches, small_objects

    database = None
    if settings.state is not None and not link_state.install(settings.state):
        database = settings.state / "superlink.db"
    longpoll.install()
    object_batches.install()
    small_objects.install_superlink()
    if settings.certificates is not None:
        admission.install(settings.state)
        keys.watch_expiry(
            [settings.certificates / "ca.crt", settings.certificates / "server.crt"],
            lambda line: print(f"warning: {line}", flush=True),
        )
    # One line per request is noise here and costs time; Flower's own log lines say what happens. A filter, because
    # the web server sets this logger's level anew when it starts.
    logging.getLogger("uvicorn.access").addFilter(_failed)
    sys.argv = ["flower-superlink", *arguments(settings, database)]
    flower_superlink()
