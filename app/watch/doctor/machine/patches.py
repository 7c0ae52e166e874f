"""What Bouquet replaces in Flower fits the Flower that is installed here, and is not switched off."""

from app.watch.doctor.rule import ALL, CLIENT, SERVER, Finding, Rule, good, wrong
from app.watch.doctor.site import Site

PROCESSES = {SERVER: "superlink", CLIENT: "supernode"}


def check(site: Site) -> Finding:
    """Look at each patch as the process does when it starts."""
    from app.fleet import flower
    from app.fleet.patches import tables
    from app.fleet.patches.registry import check_switches

    switches = site.own.patches
    check_switches(switches, tables.NAMES)
    with flower.imports():
        rows = [row for row in tables.rows(switches) if PROCESSES.get(site.role, "") in row["process"]]
    off = [row for row in rows if not row["on"]]
    if off:
        row = next((row for row in off if row["required"]), off[0])
        others = f", and {len(off) - 1} more" if off[1:] else ""
        return wrong(
            f"patch {row['name']} is off{others} ({row['reason']}): {row['without']}",
            "install flwr 1.39, and take it out of BOUQUET_PATCHES; `bouquet patches` lists all",
        )
    return good(f"{len(rows)} patches are on")


RULE = Rule(
    name="patches",
    phase="machine",
    promise="Flower is the one that Bouquet was written for",
    roles=frozenset({SERVER, CLIENT, ALL}),
    check=check,
    required=False,
)
