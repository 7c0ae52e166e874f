"""There is space where the processes write."""

import os
import shutil

from app.watch.doctor.machine.folders import MIB, folders
from app.watch.doctor.rule import ALL, CLIENT, SERVER, Finding, Rule, good, wrong
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Ask the file systems."""
    least = None
    for folder in folders(site):
        free = shutil.disk_usage(folder.existing).free
        if free < folder.needs:
            return wrong(
                f"{folder.path} has {free // MIB} MiB free, and {folder.needs // MIB} MiB are needed",
                f"make space there, or choose another folder with {folder.setting}",
            )
        system = os.statvfs(folder.existing)
        if system.f_files and not system.f_favail:
            return wrong(
                f"the file system of {folder.path} can hold no more files",
                f"remove files there, or choose another folder with {folder.setting}",
            )
        least = free if least is None else min(least, free)
    return good(f"{(least or 0) // MIB:,} MiB")


RULE = Rule(
    name="disk",
    phase="machine",
    promise="there is space where files are written",
    roles=frozenset({SERVER, CLIENT, ALL}),
    check=check,
    quick=True,
    at_start=True,
)
