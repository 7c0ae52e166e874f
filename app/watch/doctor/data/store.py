"""The prepared data can be read as training reads it: whole, not empty, made for this number of clients."""

from app.fleet.site.allowed_apps import THE_OWN
from app.watch.doctor.data.splits import open_store, splits
from app.watch.doctor.rule import ALL, CLIENT, SERVER, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site

MOST_BYTES = 64 << 20  # of each part; of a larger one, every n-th picture


def check(site: Site) -> Finding:
    """Open every part, and read pictures of it."""
    store = open_store(site)
    if store is None:
        if site.sources.source or site.role == ALL:
            return skipped("it is prepared from DATASET first (`bouquet prepare`)")
        if site.role == SERVER or site.client.allowed_apps != THE_OWN:
            return skipped("BOUQUET_DATA is not set: only apps with data of their own can run")
        return wrong(
            "BOUQUET_DATA is not set, so this client has nothing to learn from",
            "run `bouquet prepare --out DIR`, and set BOUQUET_DATA=DIR",
        )
    pictures = 0
    for name, split in splits(site, store):
        step = max(1, split.images.nbytes // MOST_BYTES)
        if not split.images[::step].any():
            return wrong(
                f"BOUQUET_DATA={store.path}: every picture of {name} is black",
                "look at the source, and run `bouquet prepare --force`",
            )
        pictures += len(split)
    shape = "x".join(map(str, store.manifest.shape))
    return good(f"{pictures:,} pictures of {shape} in {store.path}, from {store.manifest.source}")


RULE = Rule(
    name="store",
    phase="data",
    promise="the prepared data can be read",
    roles=frozenset({SERVER, CLIENT, ALL}),
    check=check,
    needs=("settings", "partition"),
)
