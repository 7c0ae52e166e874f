"""This client has a key of its own that nobody else can read."""

from app.fleet.identity import hand_out
from app.fleet.identity.keys import fingerprint, load_node_key
from app.watch.doctor.rule import CLIENT, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Read it as the SuperNode does."""
    key = site.client.key
    if site.client.ca is None or key is None:
        return skipped("--insecure: nobody has a key, for loopback and tests")
    if key.suffix == hand_out.SUFFIX:
        if site.client.leases is None or not key.is_socket():
            return wrong(
                f"BOUQUET_NODE_KEY={key}: nobody hands out keys there",
                "start `bouquet pki hand-out` (service `keys` of Compose), and set BOUQUET_LEASES",
            )
        return good(f"{key} hands it out with the partition id")
    return good(f"{key}, {fingerprint(load_node_key(key)[1])}")


RULE = Rule(
    name="key",
    phase="identity",
    promise="this client has a key that nobody else can read",
    roles=frozenset({CLIENT}),
    check=check,
    quick=True,
)
