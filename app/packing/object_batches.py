"""Several of Flower's objects in one call between the ServerApp and the SuperLink.

Flower fetches, delivers and confirms each object by an HTTP call of its own, so ten replies cost fifty calls. Here the
object id of a call may be a list of ids, and its content a batch. The ServerApp asks so only after the SuperLink
(``app/fleet/patches/superlink/object_batches.py``) has shown that it understands. Any other SuperLink answers that there
is no object of such a name.
"""

import struct
from collections.abc import Iterable, Iterator

SEPARATOR = ","
# In the place of an object's id: how many bytes the SuperLink has sent and received in the run.
TRAFFIC = f"traffic{SEPARATOR}"
_TRAFFIC = struct.Struct("!QQ")
# Bytes in one batch. An object that does not fit is fetched by itself.
LARGEST_BATCH = 8 * 1024 * 1024
_ENTRY = struct.Struct("!32sQ")  # SHA-256 (Flower's object id) and length
ENTRY_SIZE = _ENTRY.size  # bytes that each object takes beside its content


def encode(objects: Iterable[tuple[str, bytes]]) -> bytes:
    """The objects (id, content) one after another."""
    return b"".join(_ENTRY.pack(bytes.fromhex(name), len(content)) + content for name, content in objects)


def decode(batch: bytes) -> dict[str, bytes]:
    """The objects of a batch by id. Raises ValueError when it is cut short."""
    objects, position = {}, 0
    while position < len(batch):
        if position + _ENTRY.size > len(batch):
            raise ValueError("an entry is cut short")
        digest, length = _ENTRY.unpack_from(batch, position)
        position += _ENTRY.size
        if position + length > len(batch):
            raise ValueError("an object is cut short")
        objects[digest.hex()] = batch[position : position + length]
        position += length
    return objects


def batches(objects: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """The objects in lists of at most ``LARGEST_BATCH`` bytes; a larger one is a list of its own."""
    current: list[tuple[str, bytes]] = []
    size = 0
    for name, content in objects:
        if current and size + len(content) > LARGEST_BATCH:
            yield current
            current, size = [], 0
        current.append((name, content))
        size += len(content)
    if current:
        yield current


def encode_traffic(sent: int, received: int) -> bytes:
    """The answer to ``TRAFFIC``."""
    return _TRAFFIC.pack(sent, received)


def decode_traffic(content: bytes) -> tuple[int, int] | None:
    """Bytes sent and received; None for anything else than such an answer."""
    return _TRAFFIC.unpack(content) if len(content) == _TRAFFIC.size else None
