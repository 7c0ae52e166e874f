"""The ports that the processes here listen on are free, or a SuperLink of this user has them already."""

from app.environment import UNIX
from app.errors import UserError
from app.fleet.deployment import SuperLinkSettings, UpSettings
from app.fleet.host import ports
from app.watch.doctor.rule import ALL, CLIENT, SERVER, Finding, Rule, good, mistake
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Bind each of them for a moment."""
    settings, wanted = site.own, []
    if isinstance(settings, SuperLinkSettings):
        if not settings.fleet_address.startswith(UNIX):
            host, port = ports.split(settings.fleet_address)
            wanted.append(("--fleet-address", port, host or "0.0.0.0"))
        wanted.append(("--control-port", settings.control_port, "127.0.0.1"))
        wanted.append(("BOUQUET_HEALTH_PORT", settings.health_port, "127.0.0.1"))
        if settings.metrics:
            host, port = ports.split(settings.metrics)
            wanted.append(("BOUQUET_METRICS", port, host))
    elif isinstance(settings, UpSettings):
        wanted.append(("--control-port", settings.control_port, "127.0.0.1"))
    elif (
        settings.leases is None
    ):  # clients of one host have network namespaces of their own, or no health port
        wanted.append(("BOUQUET_HEALTH_PORT", settings.health_port, "127.0.0.1"))
    running = 0
    for name, port, host in wanted:
        try:
            ports.require_free(name, port, host)
        except UserError as error:
            if not _is_ours(port, site.role):
                return mistake(error)
            running += 1
    return good("it is running" if running else ", ".join(str(port) for _, port, _ in wanted if port))


def _is_ours(port: int, role: str) -> bool:
    """Whether the process that listens on ``port`` is one of Bouquet's of this role, as far as this user can see."""
    import psutil

    command = {SERVER: "superlink", CLIENT: "supernode"}.get(role)
    try:
        listening = psutil.net_connections("tcp")
        pids = {
            each.pid
            for each in listening
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port
        }
        lines = [psutil.Process(pid).cmdline() for pid in pids if pid]
    except psutil.Error:
        return False
    return command is not None and any(command in line for line in lines)


RULE = Rule(
    name="ports",
    phase="network",
    promise="the ports to listen on are free",
    roles=frozenset({SERVER, CLIENT, ALL}),
    check=check,
    quick=True,
)
