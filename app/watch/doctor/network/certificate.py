"""The SuperLink's certificate names the host that is dialled, and is valid now."""

from datetime import UTC, datetime

from app.fleet.host.ports import split
from app.fleet.identity.certificates import certificate_names
from app.watch.doctor.rule import CLIENT, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site

DAY = "%Y-%m-%d %H:%M UTC"


def check(site: Site) -> Finding:
    """Look at its names and dates."""
    certificate, now = site.door.certificate, datetime.now(UTC)
    if certificate is None:
        return skipped("there is no TLS")
    host = split(site.client.superlink)[0]
    if not site.door.is_named:
        return wrong(
            f"the SuperLink's certificate does not name {host}; it names {', '.join(certificate_names(certificate))}",
            f"dial a name that it has, or its operator runs `bouquet pki server --name {host}` and restarts it",
        )
    if certificate.not_valid_after_utc <= now:
        return wrong(
            f"the SuperLink's certificate expired on {certificate.not_valid_after_utc:{DAY}}; it is {now:{DAY}} here",
            "its operator must run `bouquet pki renew` and restart it; or this host's clock is wrong",
        )
    if certificate.not_valid_before_utc > now:
        return wrong(
            f"the SuperLink's certificate is valid from {certificate.not_valid_before_utc:{DAY}}; it is {now:{DAY}} here",
            "set this host's clock",
        )
    return good(f"{host}, until {certificate.not_valid_after_utc:%Y-%m-%d}")


RULE = Rule(
    name="certificate",
    phase="network",
    promise="the SuperLink's certificate has the right name and is valid",
    roles=frozenset({CLIENT}),
    check=check,
    needs=("settings", "tls"),
)
