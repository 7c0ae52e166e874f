"""Both ends have the same Bouquet and the same Flower."""

from app.watch.doctor.network.told import told
from app.watch.doctor.rule import CLIENT, Finding, Rule, good, wrong
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Compare what is installed here with what the SuperLink says."""
    from app.fleet.fleet_api.about import versions

    answer = told(site)
    if isinstance(answer, Finding):
        return answer
    for name, here in versions().items():
        there = answer.versions.get(name, "not installed")
        if here != there:
            return wrong(
                f"{name} is {here} here and {there} on the SuperLink",
                f"install {name}=={there} here, or upgrade the SuperLink: both ends must have the same",
            )
    return good(", ".join(f"{name} {version}" for name, version in answer.versions.items()))


RULE = Rule(
    name="versions",
    phase="network",
    promise="Bouquet and Flower are the same on both ends",
    roles=frozenset({CLIENT}),
    check=check,
    needs=("settings", "certificate", "key", "enrolment"),
)
