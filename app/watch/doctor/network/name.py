"""The name of the SuperLink's host can be resolved."""

from app.fleet.host.ports import split
from app.watch.doctor.rule import CLIENT, Finding, Rule, good, unreachable
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Ask this host's name service."""
    host = split(site.client.superlink)[0]
    if reason := site.door.unknown_host:
        return unreachable(
            f"SUPERLINK={site.client.superlink}: {host} cannot be resolved ({reason})",
            "check its spelling and this host's name service (/etc/resolv.conf), or give an address",
        )
    return good(host)


RULE = Rule(
    name="name",
    phase="network",
    promise="the SuperLink's name is known",
    roles=frozenset({CLIENT}),
    check=check,
)
