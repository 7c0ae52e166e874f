"""Compose is version 2 and new enough for the files here."""

from app.watch.doctor import programs
from app.watch.doctor.engine.engine import numbers, written
from app.watch.doctor.rule import ALL, CLIENT, SERVER, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site

LEAST = (2, 20)  # `compose --progress`, `compose wait`


def check(site: Site) -> Finding:
    """Ask Compose for its version."""
    if site.engine is None:
        return skipped("there is no container engine here")
    done = programs.run(site, site.engine, "compose", "version", "--short")
    if done.status:
        return wrong(
            f"{site.engine} has no Compose ({done.reason})",
            "install the plugin docker-compose-v2; the old command docker-compose does not read the files here",
        )
    version = done.output.strip().splitlines()[-1] if done.output.strip() else ""
    if numbers(version) < LEAST:
        return wrong(
            f"Compose is {version or 'of an unknown version'}, and compose.yaml needs {written(LEAST)}",
            "upgrade the plugin docker-compose-v2, or run plain processes (make run MODE=local)",
        )
    return good(f"Compose {version}")


RULE = Rule(
    name="compose",
    phase="engine",
    promise="Compose is version 2 and new enough",
    roles=frozenset({SERVER, CLIENT, ALL}),
    check=check,
    required=False,
    needs=("engine",),
)
