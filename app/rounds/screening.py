"""Replies that cannot be right, kept out of the average.

One reply with NaN makes the whole average NaN, one missing name or surplus metric makes Flower's
strategies skip or end the round, and one absurd example count takes the average over. So each reply is
looked at by itself, and what is wrong with it becomes a sentence for the log and for `summary.json`.

What is *plausible* passes: a client that poisons the model with finite, well-shaped numbers is the
business of the robust strategies (fedmedian, fedtrimmedavg, krum, bulyan), not of this module.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.common.logger import log
from numpy.lib import format as npy

from app.learning.arrays import ARRAYS, NumPyArray

METRICS, NUM_EXAMPLES = "metrics", "num-examples"

# Without a better bound: more pictures than any single site has.
MAX_EXAMPLES = 1_000_000_000
# A site's data may grow between rounds, though hardly tenfold.
MAX_GROWTH = 10


@dataclass(frozen=True)
class Rejection:
    """One reply left out, and why."""

    node_id: int
    client: str  # the name it was enrolled under, else "node <id>"
    reason: str


class Screened(NamedTuple):
    """The replies to use, in the order they came, and those left out."""

    accepted: list[Message]
    rejected: list[Rejection]


def screen(
    replies: Iterable[Message],
    expected: ArrayRecord,
    max_examples: int | None = None,
    *,
    seen_examples: MutableMapping[int, int] | None = None,
    names: Mapping[int, str] | None = None,
) -> Screened:
    """Separate train replies that can go into an average from those that cannot.

    Args:
        replies: each should hold an ArrayRecord "arrays" and a MetricRecord "metrics".
        expected: the names, shapes and dtypes that "arrays" must have; its values do not matter.
        max_examples: most training examples one client can have; default 10^9.
        seen_examples: node id to the count it last gave. Read, and updated with what was accepted: a
            client that suddenly claims more than ten times as many is left out. None: no memory.
        names: node id to the client's name, for the log.
    """
    return _screen(replies, expected, max_examples, seen_examples, names or {})


def screen_evaluation(
    replies: Iterable[Message],
    max_examples: int | None = None,
    *,
    names: Mapping[int, str] | None = None,
) -> Screened:
    """The same for evaluate replies, which hold a MetricRecord "metrics" and no arrays."""
    return _screen(replies, None, max_examples, None, names or {})


def read_client_names(registry: Path | None) -> dict[int, str]:
    """Return node id to name as the SuperLink notes them in its state folder's `members.json`; else empty.

    The names serve the log only, so an unreadable file costs the names and nothing else.
    """
    if registry is None:
        return {}
    try:
        return {int(node): str(name) for node, name in json.loads(registry.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _screen(
    replies: Iterable[Message],
    expected: ArrayRecord | None,
    max_examples: int | None,
    seen_examples: MutableMapping[int, int] | None,
    names: Mapping[int, str],
) -> Screened:
    accepted: list[Message] = []
    rejected: list[Rejection] = []
    answered: set[int] = set()

    def reject(reply: Message, reason: str) -> None:
        node = reply.metadata.src_node_id
        rejection = Rejection(node, names.get(node, f"node {node}"), reason)
        rejected.append(rejection)
        log(WARNING, "Left out the reply of %s: %s", rejection.client, reason)

    for reply in replies:
        node = reply.metadata.src_node_id
        previous = seen_examples.get(node) if seen_examples is not None else None
        if node in answered:
            reject(reply, "a second reply in the same round")
        elif reason := _fault(reply, expected, max_examples or MAX_EXAMPLES, previous):
            reject(reply, reason)
        else:
            accepted.append(reply)
        answered.add(node)

    # Flower averages metrics over replies that all have the same ones, or not at all.
    usual = _usual([_signature(reply) for reply in accepted])
    fitting = []
    for reply in accepted:
        if _signature(reply) != usual:
            reject(reply, f"its metrics are not those of the other clients: {_shown(reply.content[METRICS])}")
        else:
            fitting.append(reply)
            if seen_examples is not None:
                seen_examples[reply.metadata.src_node_id] = int(_metrics(reply)[NUM_EXAMPLES])  # type: ignore[arg-type]
    return Screened(fitting, rejected)


def _fault(reply: Message, expected: ArrayRecord | None, max_examples: int, previous: int | None) -> str:
    """Say what is wrong with a reply; empty where nothing is."""
    if reply.has_error():
        return f"error {reply.error.code}: {_plain(reply.error.reason or 'no reason given', 300)}"
    content = reply.content
    wanted = [METRICS] if expected is None else [ARRAYS, METRICS]
    if list(content.metric_records) != [METRICS] or list(content.array_records) != wanted[:-1]:
        return f"it holds the records {_shown(content)} instead of {', '.join(wanted)}"
    return _metrics_fault(_metrics(reply), max_examples, previous) or (
        _arrays_fault(content.array_records[ARRAYS], expected) if expected is not None else ""
    )


def _metrics_fault(metrics: MetricRecord, max_examples: int, previous: int | None) -> str:
    for name, value in metrics.items():
        values = value if isinstance(value, list) else [value]
        if not all(math.isfinite(number) for number in values):
            return f"its metric {_plain(name, 40)} is not finite"
        if "accuracy" in name and not all(0 <= number <= 1 for number in values):
            return f"its metric {_plain(name, 40)} is not between 0 and 1"
    count = metrics.get(NUM_EXAMPLES)
    if not isinstance(count, int | float) or count != int(count):
        return f"{NUM_EXAMPLES} is missing or no whole number"
    if count <= 0:
        return f"{NUM_EXAMPLES} is {int(count)}"
    if count > max_examples:
        return f"{NUM_EXAMPLES} is {int(count)}, more than the {max_examples} that one client can have"
    if previous is not None and count > previous * MAX_GROWTH:
        return f"{NUM_EXAMPLES} is {int(count)}, after {previous} before"
    return ""


def _arrays_fault(arrays: ArrayRecord, expected: ArrayRecord) -> str:
    if arrays.keys() != expected.keys():
        missing, surplus = expected.keys() - arrays.keys(), arrays.keys() - expected.keys()
        parts = [f"lacks {_shown(missing)}"] * bool(missing) + [f"has unknown {_shown(surplus)}"] * bool(
            surplus
        )
        return f"the model it sent {' and '.join(parts)}"
    for name, model in expected.items():
        try:
            values = _values(arrays[name])
        except Exception as error:  # a header from outside can fail NumPy's parser in many ways
            return f"array {name} cannot be read: {_plain(str(error), 200)}"
        if values.shape != model.shape or arrays[name].shape != model.shape:
            return f"array {name} has shape {values.shape}, not {tuple(model.shape)}"
        if str(values.dtype) != model.dtype or arrays[name].dtype != model.dtype:
            return f"array {name} is of type {values.dtype}, not {model.dtype}"
        if not np.isfinite(values).all():
            return f"array {name} holds NaN or infinity"
    return ""


def _values(array: Array) -> np.ndarray:
    """Return an Array's numbers as a view of its bytes.

    Not `Array.numpy()`: that opens archives too and allocates what a header claims before it looks
    whether the bytes are there. A header that claims more than it brings ends here.
    """
    if isinstance(array, NumPyArray):  # unpacked here, so its numbers are there
        return array.ndarray
    if array.stype != "numpy.ndarray":
        raise ValueError(f"serialised as {_plain(array.stype, 40)}")
    head = io.BytesIO(array.data[:16_384])
    version = npy.read_magic(head)
    if version == (1, 0):
        shape, fortran_order, dtype = npy.read_array_header_1_0(head)
    elif version == (2, 0):
        shape, fortran_order, dtype = npy.read_array_header_2_0(head)
    else:
        raise ValueError(f"npy version {version}")
    start = head.tell()
    if dtype.hasobject or dtype.kind not in "fiub":
        raise ValueError(f"it is of type {dtype}")
    if len(array.data) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(array.data) - start} bytes do not make shape {shape} of {dtype}")
    flat: np.ndarray = np.frombuffer(array.data, dtype=dtype, offset=start)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _metrics(reply: Message) -> MetricRecord:
    return reply.content.metric_records[METRICS]


def _signature(reply: Message) -> frozenset[tuple[str, int]]:
    """Names of the metrics with their lengths (-1: a single number)."""
    return frozenset(
        (name, len(value) if isinstance(value, list) else -1) for name, value in _metrics(reply).items()
    )


def _usual(signatures: list[frozenset[tuple[str, int]]]) -> frozenset[tuple[str, int]] | None:
    return Counter(signatures).most_common(1)[0][0] if signatures else None


def _shown(names: Collection[str]) -> str:
    ordered = sorted(names)
    text = ", ".join(_plain(name, 40) for name in ordered[:5])
    return (text + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")) or "none"


def _plain(text: str, length: int) -> str:
    """What a client wrote, short and on one line: it must not be able to forge lines of the log."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:length]).strip()
