"""Sending and fetching a phase's messages: by Flower's own calls, or by quicker ones where this Flower allows them.

The quick ones are for the grid of a SuperLink. In a simulation all happens in one process.
"""

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from app.packing import flower


def push(grid: Grid, messages: list[Message]) -> list[str]:
    """Send ``messages``; their ids in the same order, an empty one for a message that was not taken."""
    if _quick(grid):
        from app.packing import sending

        return sending.push(grid, messages)  # type: ignore[arg-type]
    return [name or "" for name in grid.push_messages(messages)]


def collect(grid: Grid, message_ids: list[str], limit: int) -> list[tuple[Message, int]]:
    """Return the replies that are there, each with the bytes that were received; :func:`confirm` frees their copies.

    Args:
        grid: Flower's grid.
        message_ids: the messages whose replies are awaited.
        limit: most bytes that one reply may hold, unfolded.
    """
    if _quick(grid):
        from app.packing import receiving

        return receiving.collect(grid, message_ids, limit)  # type: ignore[arg-type]
    return [(reply, size_of(reply)) for reply in grid.pull_messages(message_ids)]


def confirm(grid: Grid, replies: Iterable[Message]) -> None:
    """Tell the SuperLink that it may forget what :func:`collect` returned. Flower's own calls do so by themselves."""
    if _quick(grid):
        from app.packing import receiving

        receiving.confirm(grid, replies)  # type: ignore[arg-type]


def forget(grid: Grid, message_ids: Iterable[str]) -> None:
    """Tell the SuperLink that nobody waits for replies to these messages any more, so that late ones take no memory."""
    if _quick(grid):
        from app.packing import receiving

        receiving.forget(grid, message_ids)  # type: ignore[arg-type]


def traffic(grid: Grid) -> tuple[int, int] | None:
    """Bytes that the SuperLink has sent to clients and received from them in this run; None where it does not tell."""
    if not _quick(grid):
        return None
    from app.packing import receiving

    return receiving.traffic(grid)  # type: ignore[arg-type]


def _quick(grid: Grid) -> bool:
    # By its name: the class may be the one that this Flower lacks.
    return type(grid).__name__ == "HttpGrid" and flower.available(flower.TRANSPORT.name)


def size_of(message: Message) -> int:
    """Bytes of a message's records as they travel, but for the heads of arrays."""
    if not message.has_content():
        return 0
    return sum(
        sum(len(array.data) for array in record.values())
        if isinstance(record, ArrayRecord)
        else len(record.deflate())
        for record in message.content.values()
    )
