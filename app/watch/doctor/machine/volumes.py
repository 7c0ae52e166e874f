"""The folders that the processes write to belong to their user, or let it write."""

import os
from pathlib import Path

from app.watch.doctor.machine.folders import folders
from app.watch.doctor.rule import ALL, CLIENT, SERVER, Finding, Rule, good, wrong
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Ask the kernel, as the process's own user."""
    user = os.geteuid()
    for folder in folders(site):
        place = folder.existing
        if not place.is_dir():
            return wrong(f"{place} is no folder", f"choose another folder with {folder.setting}")
        if os.access(place, os.W_OK | os.X_OK, effective_ids=True):
            continue
        if _is_read_only(place):
            return wrong(
                f"{place} is on a volume that is mounted read-only",
                f"mount it so that it can be written, or choose another folder with {folder.setting}",
            )
        return wrong(
            f"{place} belongs to user {place.stat().st_uid}, and user {user} cannot write to it",
            f"chown {user} {place}, or choose another folder with {folder.setting}",
        )
    return good(f"user {user}")


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


RULE = Rule(
    name="volumes",
    phase="machine",
    promise="the folders that are written to belong to this user",
    roles=frozenset({SERVER, CLIENT, ALL}),
    check=check,
    quick=True,
    at_start=True,
)
