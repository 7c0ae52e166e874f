"""The settings of the processes here can be used."""

from app.watch.doctor.rule import ALL, CLIENT, SERVER, Finding, Rule, good
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Read them as the processes do."""
    site.load()
    return good()


RULE = Rule(
    name="settings",
    phase="machine",
    promise="every setting has a value that can be used",
    roles=frozenset({SERVER, CLIENT, ALL}),
    check=check,
    quick=True,
    needs=(),
)
