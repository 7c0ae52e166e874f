"""This client's copy of the federation's CA can be used."""

from app.fleet.identity.keys import check_ca
from app.watch.doctor.rule import CLIENT, Finding, Rule, good, skipped
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Read it as the SuperNode does."""
    if site.client.ca is None:
        return skipped("--insecure: no certificates, for loopback and tests")
    certificate = check_ca(site.client.ca)
    return good(f"{site.client.ca}, until {certificate.not_valid_after_utc:%Y-%m-%d}")


RULE = Rule(
    name="ca",
    phase="identity",
    promise="the federation's ca.crt is that of a CA and valid",
    roles=frozenset({CLIENT}),
    check=check,
    quick=True,
)
