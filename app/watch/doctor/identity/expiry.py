"""No certificate expires within a month."""

from datetime import UTC, datetime

from app.fleet.identity.certificates import EXPIRY_NOTICE
from app.fleet.identity.keys import expiry_warnings
from app.watch.doctor.rule import CLIENT, SERVER, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Look at the files here and at the certificate that the SuperLink shows."""
    folder = site.server.certificates if site.role == SERVER else None
    files = [folder / "ca.crt", folder / "server.crt"] if folder else []
    if site.role == CLIENT and site.client.ca is not None:
        files = [site.client.ca]
    if not files:
        return skipped("--insecure: no certificates, for loopback and tests")
    if lines := expiry_warnings(files):
        why, _, fix = lines[0].rpartition(": ")
        return wrong(why, fix)
    shown = site.door.certificate if site.role == CLIENT else None
    if shown is not None and (left := shown.not_valid_after_utc - datetime.now(UTC)) < EXPIRY_NOTICE:
        return wrong(
            f"the SuperLink's certificate expires in {left.days} days",
            "its operator must run `bouquet pki renew` and restart the SuperLink",
        )
    return good()


RULE = Rule(
    name="expiry",
    phase="identity",
    promise="no certificate expires within 30 days",
    roles=frozenset({SERVER, CLIENT}),
    check=check,
    required=False,
    needs=("settings", "ca", "certificates", "certificate"),
)
