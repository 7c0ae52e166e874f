"""Replies that cannot be right, kept out of the average, and replies that would outweigh all others.

One reply with NaN makes the whole average NaN. One missing name or surplus metric makes Flower's strategies skip or
end the round. So this module checks each reply by itself, then beside the others of its phase, and puts its fault into a
sentence for the log and for `summary.json`.

A client with far more examples than the others may well be honest. So its reply is used, and only its weight is cut.
An update that is far longer than the others, for the examples behind it, is no result of training and is left out.

A *plausible* reply passes. Against a client that poisons the model with finite, well-shaped numbers there are the
robust strategies: fedmedian, fedtrimmedavg, krum and bulyan.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from logging import WARNING
from pathlib import Path
from statistics import median_high, median_low
from typing import NamedTuple, cast

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.supercore.differential_privacy import KEY_NORM_BIT
from numpy.lib import format as npy

from app.packing.arrays import ARRAYS, NumPyArray

METRICS, NUM_EXAMPLES = "metrics", "num-examples"

# Without a better bound: more pictures than any single site has.
MAX_EXAMPLES = 1_000_000_000
# A site's data may grow between rounds, though hardly tenfold.
MAX_GROWTH = 10
LARGEST_METRIC = 1e300  # sums of more overflow
# How far a client may stand out from the median of its phase: in examples, in loss, in the length of its update.
MAX_RATIO = 10
# A loss of ten times this is not cut, whatever the median: the cross-entropy of a guess is about 2.
ORDINARY_LOSS = 1.0
_CHUNK = 65_536  # numbers whose difference fits into a processor's cache


@dataclass(frozen=True)
class Known:
    """What the server knows of a phase's replies before they come.

    Attributes:
        metrics: the names that the app's own clients report; empty where nobody knows.
        enrolled: node id to the most examples it was enrolled with.
        largest: examples in the largest part of the server's own division of the data; as many are plausible.
    """

    metrics: frozenset[str] = frozenset()
    enrolled: Mapping[int, int] = field(default_factory=dict)
    largest: int = 0


@dataclass(frozen=True)
class Rejection:
    """One reply left out, or cut, and why."""

    node_id: int
    client: str  # the name it was enrolled under, else "node <id>"
    reason: str


class Screened(NamedTuple):
    """The replies to use, in the order of arrival, those left out, and what was cut of those that are used."""

    accepted: list[Message]
    rejected: list[Rejection]
    limited: list[Rejection]


def noted(said: str, reply: Message, reason: str, names: Mapping[int, str]) -> Rejection:
    """What is done with a reply, ``Left out`` or another, and why; the log tells it."""
    node = _node(reply)
    note = Rejection(node, names.get(node, f"node {node}"), reason)
    log(WARNING, f"{said} the reply of %s: %s", note.client, reason)
    return note


def screen(
    replies: Iterable[Message],
    expected: ArrayRecord,
    *,
    known: Known | None = None,
    seen_examples: MutableMapping[int, int] | None = None,
    names: Mapping[int, str] | None = None,
    lengths: dict[int, float] | None = None,
) -> Screened:
    """Separate train replies that can go into an average from those that cannot.

    Args:
        replies: each should hold an ArrayRecord "arrays" and a MetricRecord "metrics". A number in "metrics" that
            would outweigh all others is replaced by the most that is allowed.
        expected: the model that the clients were sent.
        known: what the server knows of its clients.
        seen_examples: node id to the count it last gave. Read, and updated with what was accepted: a
            client that suddenly claims more than ten times as many is left out. None: no memory.
        names: node id to the client's name, for the log.
        lengths: takes the length of each update, by node id.
    """
    seen = {} if seen_examples is None else seen_examples
    found = {} if lengths is None else lengths
    return _Screening(expected, known or Known(), seen, names or {}, found).run(replies)


def screen_evaluation(
    replies: Iterable[Message], *, known: Known | None = None, names: Mapping[int, str] | None = None
) -> Screened:
    """The same for evaluate replies, which hold a MetricRecord "metrics" and no arrays."""
    return _Screening(None, known or Known(), {}, names or {}).run(replies)


def read_client_names(registry: Path | None) -> dict[int, str]:
    """Return node id to name as the SuperLink notes them in its state folder's `members.json`; else empty."""
    return {node: str(member["name"]) for node, member in _members(registry).items() if "name" in member}


def read_bounds(registry: Path | None) -> dict[int, int]:
    """Return node id to the most examples it was enrolled with, from the same file."""
    bounds = {node: member.get("max-examples") for node, member in _members(registry).items()}
    return {node: bound for node, bound in bounds.items() if type(bound) is int}


def _members(registry: Path | None) -> dict[int, dict[str, object]]:
    """The SuperLink replaces the file as a whole; where it has written none, nothing is known."""
    if registry is None:
        return {}
    try:
        known = json.loads(registry.read_bytes())
        return {int(node): member for node, member in known.items() if isinstance(member, dict)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        log(WARNING, "%s cannot be read, so names and bounds of clients are unknown: %s", registry, error)
        return {}


@dataclass
class _Screening:
    """One phase's replies on their way into the average."""

    expected: ArrayRecord | None
    known: Known
    seen: MutableMapping[int, int]
    names: Mapping[int, str]
    lengths: dict[int, float] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    limited: list[Rejection] = field(default_factory=list)

    def run(self, replies: Iterable[Message]) -> Screened:
        accepted = self._like_the_others(self._sound_by_themselves(replies))
        claimed = {_node(reply): _examples(reply) for reply in accepted}
        self._limit_examples(accepted)
        if self.expected is not None:
            self._limit_losses(accepted)
            accepted = self._of_plausible_length(accepted, self.expected)
        self.seen.update((_node(reply), claimed[_node(reply)]) for reply in accepted)
        return Screened(accepted, self.rejected, self.limited)

    def _note(self, notes: list[Rejection], said: str, reply: Message, reason: str) -> None:
        notes.append(noted(said, reply, reason, self.names))

    def _keep(self, replies: Iterable[Message], fault: Callable[[Message], str]) -> list[Message]:
        """The replies without a fault; the others are left out."""
        kept = []
        for reply in replies:
            if reason := fault(reply):
                self._note(self.rejected, "Left out", reply, reason)
            else:
                kept.append(reply)
        return kept

    def _sound_by_themselves(self, replies: Iterable[Message]) -> list[Message]:
        answered: set[int] = set()

        def fault(reply: Message) -> str:
            node = _node(reply)
            if node in answered:
                return "a second reply in the same round"
            answered.add(node)
            most = self.known.enrolled.get(node, MAX_EXAMPLES)
            return _fault(reply, self.expected, most, self.seen.get(node))

        return self._keep(replies, fault)

    def _like_the_others(self, replies: list[Message]) -> list[Message]:
        """Flower averages metrics over replies that all have the same ones, or not at all.

        What more than half of the replies hold is right, else what the app's own clients report: with two clients the
        one that deviates goes, whoever replied first.
        """
        signatures = Counter(_signature(reply) for reply in replies)
        usual = frozenset((name, _SINGLE) for name in self.known.metrics)
        for signature, count in signatures.items():
            if 2 * count > len(replies):
                usual = signature

        def fault(reply: Message) -> str:
            names = _shown(reply.content[METRICS])
            return (
                ""
                if _signature(reply) == usual
                else f"its metrics are not those of the other clients: {names}"
            )

        return self._keep(replies, fault)

    def _limit_examples(self, replies: list[Message]) -> None:
        """Count no client's examples as more than ten times the median, unless the server knows that it may have them."""
        counts = {_node(reply): _examples(reply) for reply in replies}
        if not counts:
            return
        middle = median_low(counts.values())
        most = max(MAX_RATIO * middle, self.known.largest)
        for reply in replies:
            count = counts[_node(reply)]
            if count > most and _node(reply) not in self.known.enrolled:
                reason = f"{NUM_EXAMPLES} is {count}, and the median is {middle}: it counts as {most}"
                self._limit(reply, NUM_EXAMPLES, most, reason)

    def _limit_losses(self, replies: list[Message]) -> None:
        """Count no loss as more than ten times the median: qfedavg weighs clients by it."""
        for name in {name for reply in replies for name in _metrics(reply) if "loss" in name}:
            losses = [value for reply in replies if isinstance(value := _metrics(reply)[name], int | float)]
            if len(losses) < len(replies):
                continue
            middle = median_low(losses)
            most = MAX_RATIO * max(middle, ORDINARY_LOSS)
            for reply, loss in zip(replies, losses, strict=True):
                if loss > most:
                    shown = _plain(name, 40)
                    reason = f"{shown} is {loss:.6g}, and the median is {middle:.6g}: it counts as {most:.6g}"
                    self._limit(reply, name, most, reason)

    def _limit(self, reply: Message, name: str, most: float, reason: str) -> None:
        _metrics(reply)[name] = most
        self._note(self.limited, "Limited", reply, reason)

    def _of_plausible_length(self, replies: list[Message], model: ArrayRecord) -> list[Message]:
        """Without the updates that are more than ten times as long as the median, for the examples behind them.

        Twice the examples are twice the steps, and so at most twice the way. The length of the model itself is one
        more voice for the median, because two clients alone cannot tell which of them is wrong.
        """
        if not replies:
            return []
        lengths = self.lengths
        for reply in replies:
            lengths[_node(reply)] = length(reply.content.array_records[ARRAYS], model)
        middle = median_high([*(lengths[_node(reply)] for reply in replies), length(model, None)])
        usual = median_low([_examples(reply) for reply in replies])

        def fault(reply: Message) -> str:
            length = lengths[_node(reply)]
            most = MAX_RATIO * middle * max(1.0, _examples(reply) / usual)
            return (
                ""
                if length <= most
                else f"its update is {length:.3g} long, more than the plausible {most:.3g}"
            )

        return self._keep(replies, fault)


def _fault(reply: Message, expected: ArrayRecord | None, most: int, previous: int | None) -> str:
    """Say what is wrong with a reply; empty where nothing is."""
    if reply.has_error():
        return f"error {reply.error.code}: {_plain(reply.error.reason or 'no reason given', 300)}"
    content = reply.content
    wanted = [METRICS] if expected is None else [ARRAYS, METRICS]
    if list(content.metric_records) != [METRICS] or list(content.array_records) != wanted[:-1]:
        return f"it holds the records {_shown(content)} instead of {', '.join(wanted)}"
    return _metrics_fault(_metrics(reply), most, previous) or (
        _arrays_fault(content.array_records[ARRAYS], expected) if expected is not None else ""
    )


def _metrics_fault(metrics: MetricRecord, most: int, previous: int | None) -> str:
    for name, value in metrics.items():
        values = value if isinstance(value, list) else [value]
        if not all(abs(number) <= LARGEST_METRIC for number in values):
            return f"its metric {_plain(name, 40)} is not finite"
        if "accuracy" in name and not all(0 <= number <= 1 for number in values):
            return f"its metric {_plain(name, 40)} is not between 0 and 1"
        if "loss" in name and not all(number >= 0 for number in values):
            return f"its metric {_plain(name, 40)} is negative"
        if name == KEY_NORM_BIT and value not in (0, 1):
            return f"its metric {name} is neither 0 nor 1"
    count = metrics.get(NUM_EXAMPLES)
    if not isinstance(count, int | float) or count != int(count):
        return f"{NUM_EXAMPLES} is missing or no whole number"
    if count <= 0:
        return f"{NUM_EXAMPLES} is {int(count)}"
    if count > most:
        return f"{NUM_EXAMPLES} is {int(count)}, more than the {most} that this client can have"
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


def length(arrays: ArrayRecord, start: ArrayRecord | None) -> float:
    """L2 norm of the floating-point arrays, less those of ``start``; infinite where it is beyond float64."""
    for dtype in (np.float32, np.float64):
        total = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for name, array in arrays.items():
                values = _values(array).reshape(-1)
                if values.dtype.kind != "f":
                    continue
                before = np.zeros(1, dtype) if start is None else _values(start[name]).reshape(-1)
                for i in range(0, values.size, _CHUNK):
                    old = before if start is None else before[i : i + _CHUNK]
                    step = np.subtract(values[i : i + _CHUNK], old, dtype=dtype, casting="same_kind")
                    total += float(np.dot(step, step))
        if math.isfinite(total):
            return math.sqrt(total)
    return math.inf


def _node(reply: Message) -> int:
    return reply.metadata.src_node_id


def _metrics(reply: Message) -> MetricRecord:
    return reply.content.metric_records[METRICS]


def _examples(reply: Message) -> int:
    return int(cast(float, _metrics(reply)[NUM_EXAMPLES]))


_SINGLE = -1  # the length of a metric that is one number


def _signature(reply: Message) -> frozenset[tuple[str, int]]:
    """Names of the metrics with their lengths."""
    return frozenset(
        (name, len(value) if isinstance(value, list) else _SINGLE) for name, value in _metrics(reply).items()
    )


def _shown(names: Collection[str]) -> str:
    ordered = sorted(names)
    text = ", ".join(_plain(name, 40) for name in ordered[:5])
    return (text + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")) or "none"


def _plain(text: str, length: int) -> str:
    """A client's text, short and on one line, so that it cannot forge lines of the log."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:length]).strip()
