"""Something answers at the SuperLink's port."""

from app.watch.doctor.rule import CLIENT, Finding, Rule, good, unreachable
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Tell a SuperLink that is down from one behind a closed port."""
    address, door = site.client.superlink, site.door
    if door.refused:
        return unreachable(
            f"SUPERLINK={address}: the host is up and nothing listens at this port",
            "is the SuperLink running, and is this the port of its Fleet API (9092)?",
        )
    if door.closed:
        return unreachable(
            f"SUPERLINK={address} cannot be connected to ({door.closed})",
            "check the network, that the server's firewall lets its port 9092 in, and that this one lets it out",
        )
    return good(address)


RULE = Rule(
    name="superlink",
    phase="network",
    promise="something answers at the SuperLink's port",
    roles=frozenset({CLIENT}),
    check=check,
    needs=("settings", "name"),
)
