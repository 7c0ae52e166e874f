"""``bouquet superlink``: Flower's SuperLink, closed by default, holding requests instead of being polled."""

import logging
import sys
from collections.abc import Callable

from app import process
from app.environment import DRAIN, UNIX, AppEnvironment, read
from app.fleet import flower, logs
from app.fleet.deployment import PACKAGE, SuperLinkSettings
from app.fleet.host import cores, ports
from app.fleet.identity import keys
from app.fleet.patches import tables
from app.fleet.patches.registry import Selection, check_switches, select
from app.fleet.patches.superlink import handshakes
from app.fleet.patches.superlink.admission import REGISTRY


def _failed(record: logging.LogRecord) -> bool:
    """Whether an access-log record is of a request that failed; the last of its arguments is the HTTP status."""
    return not (isinstance(record.args, tuple) and record.args and str(record.args[-1]).startswith("2"))


def arguments(settings: SuperLinkSettings) -> list[str]:
    """The command line of ``flower-superlink``."""
    command = [
        "--fleet-api-address", settings.fleet_address,
        "--host", "127.0.0.1",
        "--port", str(settings.control_port),
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    if settings.certificates is None:
        return [*command, "--insecure"]
    return [
        *command, "--enable-supernode-auth",
        "--ssl-ca-certfile", str(settings.certificates / "ca.crt"),
        "--ssl-certfile", str(settings.certificates / "server.crt"),
        "--ssl-keyfile", str(settings.certificates / "server.key"),
    ]  # fmt: skip


def _defaults(settings: SuperLinkSettings) -> dict[str, str]:
    """What the ServerApp must find in its environment, where the person has set nothing."""
    members = {"BOUQUET_MEMBERS": str(settings.state / REGISTRY)} if settings.state is not None else {}
    # The ServerApp evaluates while the clients train. Where they share cores, threads that spin take the cores from
    # those that they wait for.
    return members | {"OMP_NUM_THREADS": str(cores.available_cores()), "OMP_WAIT_POLICY": "PASSIVE"}


def run(settings: SuperLinkSettings, ready: Callable[[], None] = lambda: None) -> None:
    """Check what can be checked, then become the SuperLink; does not return.

    Args:
        settings: of the SuperLink.
        ready: called when Flower has been imported and patched, before it starts.

    Raises:
        UserError: a port is taken, or a certificate or key cannot serve.
    """
    process.forbid_inspection()
    if not settings.fleet_address.startswith(UNIX):
        host, port = ports.split(settings.fleet_address)
        ports.require_free("--fleet-address", port, host or "0.0.0.0")
    ports.require_free("--control-port", settings.control_port)
    ports.require_free("BOUQUET_HEALTH_PORT", settings.health_port)
    if settings.metrics:
        host, port = ports.split(settings.metrics)
        ports.require_free("BOUQUET_METRICS", port, host)
    if settings.certificates is not None:
        keys.check_server_identity(settings.certificates)
    if settings.state is not None:
        settings.state.mkdir(parents=True, exist_ok=True)
    (read(AppEnvironment).results / DRAIN).unlink(missing_ok=True)  # it has been started again
    trace = {} if settings.certificates is None else handshakes.TRACE
    # Its SuperExec is a module of this package.
    here = {"PYTHONPATH": flower.python_path(PACKAGE)}
    flower.prepare_environment(trace | here, _defaults(settings))
    if settings.certificates is not None:
        handshakes.make_handshakes_readable()
    logs.escape_records()
    selection = _select_patches(settings)
    logs.limit_alike()
    selection.install()
    if settings.certificates is not None:
        keys.watch_expiry(
            [settings.certificates / "ca.crt", settings.certificates / "server.crt"],
            lambda line: print(f"warning: {line}", flush=True),
        )
    # One line per request is noise here and costs time; Flower's own log lines say what happens. A filter, because
    # the web server sets this logger's level anew when it starts.
    logging.getLogger("uvicorn.access").addFilter(_failed)
    ready()
    _run_flower(arguments(settings))


def _select_patches(settings: SuperLinkSettings) -> Selection:
    """Import Flower's SuperLink and choose the patches that fit it."""
    check_switches(settings.patches, tables.NAMES)
    with flower.imports():
        import flwr.superlink.cli.flower_superlink
        import flwr.superlink.main  # noqa: F401 (what the SuperLink imports when it runs)

        return select(tables.SUPERLINK, settings, settings.patches)


def _run_flower(command: list[str]) -> None:
    from flwr.superlink.cli.flower_superlink import flower_superlink

    sys.argv = ["flower-superlink", *command]
    flower_superlink()
