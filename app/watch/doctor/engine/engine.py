"""The container engine answers this user and is new enough."""

import re

from app.watch.doctor import programs
from app.watch.doctor.rule import ALL, CLIENT, SERVER, Finding, Rule, good, skipped, unreachable, wrong
from app.watch.doctor.site import Site

LEAST = {"docker": (25, 0), "podman": (4, 4)}  # Docker: the images' health checks have a start interval


def numbers(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    match = re.search(r"(\d+)\.(\d+)", text)
    return tuple(map(int, match.groups())) if match else ()


def written(version: tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


def check(site: Site) -> Finding:
    """Ask the engine itself."""
    engine = site.engine
    if engine is None:
        return skipped("there is no Docker or Podman here; plain processes need none")
    if site.engine_info is None:
        reason = programs.run(site, engine, "info").reason
        return unreachable(
            f"no {engine} engine answers this user ({reason})",
            "start it, and let this user use it; plain processes (make run MODE=local) need none",
        )
    version = site.engine_info.get("ServerVersion") or site.engine_info.get("version", {}).get("Version", "")
    if numbers(version) < LEAST[engine]:
        return wrong(
            f"{engine} is {version or 'of an unknown version'}, and the images need {written(LEAST[engine])}",
            f"upgrade {engine}, or run plain processes (make run MODE=local)",
        )
    return good(f"{engine} {version}")


RULE = Rule(
    name="engine",
    phase="engine",
    promise="the container engine answers and is new enough",
    roles=frozenset({SERVER, CLIENT, ALL}),
    check=check,
    required=False,
    needs=(),
)
