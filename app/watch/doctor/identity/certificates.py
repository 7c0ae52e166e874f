"""The server's certificate and key fit, are valid, and name what clients dial."""

from app.fleet.identity.keys import check_server_identity
from app.watch.doctor.rule import SERVER, Finding, Rule, good, skipped
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Look at the files as the SuperLink does, and for the names in SERVER_NAMES."""
    folder = site.server.certificates
    if folder is None:
        return skipped("--insecure: no certificates, for loopback and tests")
    check_server_identity(folder, site.server_names)
    return good(str(folder))


RULE = Rule(
    name="certificates",
    phase="identity",
    promise="the server's certificate is valid and names what clients dial",
    roles=frozenset({SERVER}),
    check=check,
    quick=True,
)
