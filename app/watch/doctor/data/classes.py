"""No class is missing where all should be."""

from pathlib import Path

from app.watch.doctor.data.splits import open_store, splits
from app.watch.doctor.rule import ALL, CLIENT, SERVER, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site

UNEVEN = ("dirichlet", "pathological", "shard")  # partitioners that leave classes out by design
ENOUGH = 20  # pictures of a class on average; with fewer, chance may leave one out
SHOWN = 10


def check(site: Site) -> Finding:
    """Count the labels of the prepared data; where there is none yet, the pictures in each class directory."""
    import numpy as np

    store = open_store(site)
    if store is None:
        folder = site.sources.source
        if not folder or not Path(folder).expanduser().is_dir():
            return skipped("there is no data to count")
        return _folders(site, Path(folder).expanduser())
    names, parts = (
        store.manifest.classes,
        [(name, split) for name, split in splits(site, store) if "validation" not in name],
    )
    for name, split in parts:
        counts = np.bincount(split.labels, minlength=len(names))
        absent = [names[label] for label in np.flatnonzero(counts == 0)]
        by_design = store.manifest.partitioner in UNEVEN or len(split) < ENOUGH * len(names)
        if absent and not (by_design and name != "test"):
            return wrong(
                f"{name} has no picture of {_list(absent)}",
                "add pictures of it to the source, or have all sites leave the class out; then `bouquet prepare --force`",
            )
    total = sum(np.bincount(split.labels, minlength=len(names)) for name, split in parts if name != "test")
    if site.role == SERVER:
        total = np.bincount(parts[0][1].labels, minlength=len(names))
    return good(_counted(dict(zip(names, np.atleast_1d(total).tolist(), strict=True))))


def _folders(site: Site, folder: Path) -> Finding:
    from app.learning.data.folders import class_directories, pictures_in
    from app.learning.data.sources import find

    if find(str(folder)).kind != "pictures":
        return skipped("they are counted when the data has been prepared")
    counts = {directory.name: len(pictures_in(directory)) for directory in class_directories(folder)}
    counts |= {name: 0 for name in site.sources.classes.split(",") if name and name not in counts}
    if absent := [name for name, count in counts.items() if not count]:
        return wrong(
            f"DATASET={folder} has no picture of {_list(absent)}",
            "add pictures of it, or have all sites leave the class out (`bouquet prepare --classes`)",
        )
    return good(_counted(counts))


def _counted(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:SHOWN])
    return shown + (f", ... ({len(counts)} classes)" if len(counts) > SHOWN else "")


def _list(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


RULE = Rule(
    name="classes",
    phase="data",
    promise="there are pictures of every class",
    roles=frozenset({SERVER, CLIENT, ALL}),
    check=check,
    required=False,
    needs=("settings", "partition", "store"),
)
