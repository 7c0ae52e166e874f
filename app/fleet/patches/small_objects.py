"""The small objects of a message travel with the message: fewer calls for the same content.

Flower fetches and delivers every object of a message by a call of its own, and each call is signed, verified and
dispatched. A training message of Bouquet is the model in pieces of 5 MiB, and a few objects of some hundred bytes. The
small ones travel in the gRPC metadata of ``PullMessages`` and ``PushMessages``. A peer that does not know of it
ignores the metadata and makes its calls as before, so stock SuperNodes and SuperLinks work on either side.

``superlink/small_objects.py`` and ``supernode/small_objects.py`` are the patches of the two ends.
"""

from collections.abc import Iterable
from typing import Any

from app.packing.object_batches import ENTRY_SIZE, decode, encode

ASKS, OBJECTS = "bouquet-small-objects", "bouquet-objects-bin"
# gRPC refuses more than 8 KiB of metadata, Flower's own signature and key included.
LARGEST_OBJECT, LARGEST_TOTAL = 2048, 4096
PURPOSE = "the small objects of a message travel with it"
WITHOUT = "each of them costs a call between client and SuperLink"


def those_that_fit(objects: Iterable[tuple[str, bytes | None]]) -> bytes:
    """A batch of as many of the small ``objects`` (id, content) as fit; those not there yet are left out."""
    chosen: list[tuple[str, bytes]] = []
    size = 0
    for object_id, content in objects:
        if content and len(content) <= LARGEST_OBJECT and size + len(content) + ENTRY_SIZE <= LARGEST_TOTAL:
            chosen.append((object_id, content))
            size += len(content) + ENTRY_SIZE
    return encode(chosen)


def received(metadata: Any) -> dict[str, bytes]:
    for key, value in metadata or ():
        if key == OBJECTS:
            try:
                return decode(bytes(value))
            except ValueError:
                return {}
    return {}
