"""The SuperLink agrees on TLS, with a certificate that this client's CA has signed."""

from app.fleet.patches.supernode.connection_errors import explain
from app.watch.doctor.rule import CLIENT, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Look at the handshake."""
    if site.client.ca is None:
        return skipped("--insecure: nothing is encrypted, for loopback and tests")
    if reason := site.door.no_tls:
        said = explain(reason)
        why, _, fix = said.partition(": ")
        if not fix:
            why, fix = (
                f"no TLS was agreed ({reason})",
                "SUPERLINK must be the Fleet API of a SuperLink with TLS",
            )
        return wrong(why, fix)
    return good()


RULE = Rule(
    name="tls",
    phase="network",
    promise="the SuperLink shows a certificate of this federation's CA",
    roles=frozenset({CLIENT}),
    check=check,
    needs=("settings", "ca", "superlink"),
)
