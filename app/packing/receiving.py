"""Fetching the replies. A client may send any bytes; bytes that make no reply become an error reply.

Flower's own ``Grid.pull_messages`` raises at the first reply that cannot be read. That would end the run, and
would lose the good replies beside it, because the SuperLink hands each reply out once. It also believes the reply's
own claims, such as which message it answers. We take the sender from the SuperLink, which
authenticated the connection, and ignore what the reply claims.

Read in flwr 1.39.0: ``superlink/grid/http_grid.py``, ``supercore/inflatable/inflatable_utils.py``.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import Array, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.superlink.grid.http_grid import HttpGrid

from app.packing.flower import runtime_client
from app.packing.object_batches import SEPARATOR, TRAFFIC, decode, decode_traffic
from app.packing.sending import takes_batches

ARRAY_DEPTH = 3  # message, its records, a record, an array, the array's pieces


def collect(grid: HttpGrid, message_ids: list[str], limit: int) -> list[tuple[Message, int]]:
    """Return the replies that are there, each with the number of bytes received; :func:`confirm` frees their copies.

    Args:
        grid: the grid of a SuperLink.
        message_ids: the messages whose replies are awaited.
        limit: most bytes that one reply may hold, unfolded.
    """
    client, run_id = runtime_client(grid), grid.run.run_id
    answer = client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
    pull = make_pull_object_fn_protobuf(client.PullObject, grid.node, run_id)
    here = _fetched_together(grid, answer.message_object_trees)
    replies = []
    for header, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
        name, metadata = header.metadata.message_id, metadata_from_proto(header.metadata)
        try:
            ids = [node.object_id for node in iterate_object_tree(tree)]
            contents = {each: here[each] for each in ids if each in here}
            contents |= pull_objects([each for each in ids if each not in contents], pull)
        except ObjectPullError as error:
            reason = f"its reply did not arrive as a whole: {error}"
            replies.append((make_message(metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, reason)), 0))
            continue
        size = sum(map(len, contents.values()))
        try:
            _check_size(contents, limit)
            reply = _inflated(contents, name, metadata)
        except Exception as error:  # bytes from outside can fail Flower's parsers in many ways
            reason = f"its reply cannot be read: {error or type(error).__name__}"
            reply = make_message(metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, reason))
        replies.append((reply, size))
    return replies


def confirm(grid: HttpGrid, replies: Iterable[Message]) -> None:
    """Tell the SuperLink that it may forget what :func:`collect` returned."""
    _confirm(grid, [reply.metadata.message_id for reply in replies])


def forget(grid: HttpGrid, message_ids: Iterable[str]) -> None:
    """Tell the SuperLink that nobody waits for replies to these messages any more. A stock one has no word for it."""
    if takes_batches(grid):
        _confirm(grid, list(message_ids))


def _confirm(grid: HttpGrid, names: list[str]) -> None:
    for each in [SEPARATOR.join(names)] if takes_batches(grid) else names:
        runtime_client(grid).ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=grid.node, run_id=grid.run.run_id, message_object_id=each)
        )


def traffic(grid: HttpGrid) -> tuple[int, int] | None:
    """Bytes that the SuperLink has sent and received in this run; None for a stock SuperLink."""
    if not takes_batches(grid):
        return None
    request = PullObjectRequest(node=grid.node, run_id=grid.run.run_id, object_id=TRAFFIC)
    return decode_traffic(runtime_client(grid).PullObject(request).object_content)


def _fetched_together(grid: HttpGrid, trees: Iterable[ObjectTree]) -> dict[str, bytes]:
    """What one call brings of the objects of ``trees``; the rest is fetched one by one."""
    ids = [name for tree in trees for name in _small_enough(tree)]
    if not ids or not takes_batches(grid):
        return {}
    request = PullObjectRequest(node=grid.node, run_id=grid.run.run_id, object_id=SEPARATOR.join([*ids, ""]))
    return decode(runtime_client(grid).PullObject(request).object_content)


def _small_enough(tree: ObjectTree, depth: int = 0) -> Iterator[str]:
    """The ids in ``tree`` but for the pieces of arrays that come in several, of which a batch would hold one or two."""
    if depth < ARRAY_DEPTH or len(tree.children) == 1:
        for child in tree.children:
            yield from _small_enough(child, depth + 1)
    yield tree.object_id


def _inflated(contents: dict[str, bytes], name: str, metadata: Any) -> Message:
    """The reply in ``contents`` under the SuperLink's ``metadata``. Raises what Flower's parsers raise."""
    inner = inflate_object_from_contents(name, contents)
    if not isinstance(inner, Message):
        raise TypeError(f"it is a {type(inner).__name__}")
    if inner.has_error():
        return make_message(metadata, error=inner.error)
    if not isinstance(inner.content, RecordDict):
        raise TypeError(f"its content is a {type(inner.content).__name__}")
    return make_message(metadata, content=inner.content)


def _check_size(contents: dict[str, bytes], limit: int) -> None:
    """Raise ValueError where a reply is too large, also where it only becomes so by repeating its parts."""
    total = sum(map(len, contents.values()))
    if total <= limit:
        for content in contents.values():
            kind, children, _ = get_object_head_values_from_object_content(content)
            if kind == Array.__qualname__:
                indices = json.loads(get_object_body(content, Array))["arraychunk_ids"]
                total += sum(len(contents[children[index]]) for index in indices)
    if total > limit:
        raise ValueError(f"it holds {total} bytes, more than the {limit} that make sense here")
