"""The pictures that would be prepared can be read."""

import time

from app.watch.doctor.rule import ALL, CLIENT, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site

SECONDS = 4.0  # for decoding; of more pictures, the first ones are decoded and the sizes of all are looked at
CHUNK = 64


def check(site: Site) -> Finding:
    """Look at the source of `bouquet prepare`, and decode pictures of a client's own folder as that does."""
    from app.learning.data.sources import find

    if not site.sources.source:
        return skipped("DATASET is not set")
    source = find(site.sources.source)
    if source.kind != "pictures":
        where = (
            "it is downloaded by `bouquet prepare`"
            if source.kind == "hub"
            else "`bouquet prepare` reads them"
        )
        return skipped(f"{source.name}: {where}")
    from app.learning.data.folders import pictures_in
    from app.learning.data.pictures import Encoded, FormatMismatch, decode, first_format

    files = pictures_in(source.path)
    bad = [str(file) for file in files if not file.exists() or not file.stat().st_size]
    pictures = [Encoded(None, str(file.absolute()), (str(source.path.absolute()),)) for file in files]
    image_format = first_format(pictures[:CHUNK], 32)
    deadline, read = time.monotonic() + SECONDS, 0
    for start in range(0, len(pictures), CHUNK):
        if bad or time.monotonic() > deadline:
            break
        part = pictures[start : start + CHUNK]
        try:
            unreadable = decode(part, image_format, 1)[1]
        except FormatMismatch as other:  # the first picture was grey, and not all are
            image_format = other.image_format
            unreadable = decode(part, image_format, 1)[1]
        bad += [str(files[start + i]) for i in unreadable]
        read += len(part)
    if bad:
        return wrong(
            f"DATASET={source.name}: {len(bad)} of {len(files)} pictures cannot be read: {', '.join(bad[:3])}",
            f"mend or remove them, or leave them out with TOLERANCE={len(bad)}",
        )
    return good(f"{len(files):,} files, {read:,} of them decoded")


RULE = Rule(
    name="pictures",
    phase="data",
    promise="the pictures to prepare can be read",
    roles=frozenset({CLIENT, ALL}),
    check=check,
)
