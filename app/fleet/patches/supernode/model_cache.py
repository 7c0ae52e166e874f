"""A model that a client has just received is not sent to it again.

A round sends the same global model twice to a client that evaluates it and then trains from it. Flower's
objects are named by the SHA-256 of their content, so a SuperNode can recognise one it has and skip the call.

Read in flwr 1.39.0: ``supernode/start_client_internal.py`` passes ``pull_object(run_id, object_id)`` to
``_pull_and_store_message``.
"""

from collections.abc import Callable
from typing import Any

from app.fleet.patches.registry import Flower, Patch

_PULL = "flwr.supernode.start_client_internal:_pull_and_store_message"
WORTH_KEEPING = 16 * 1024  # bytes; a smaller object is not worth remembering


class ModelCache:
    """The large objects of the last message that had any."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}
        self._current: dict[str, bytes] = {}

    def begin(self) -> None:
        """A new message is about to be pulled."""
        self._current = {}

    def pulling(self, pull_object: Callable[[int, str], bytes]) -> Callable[[int, str], bytes]:
        """``pull_object`` that asks the SuperLink only for what is not here."""

        def pull(run_id: int, object_id: str) -> bytes:
            content = self._kept.get(object_id)
            if content is None:
                content = pull_object(run_id, object_id)
            if len(content) >= WORTH_KEEPING:
                self._current[object_id] = content
            return content

        return pull

    def end(self) -> None:
        """The message has been pulled; its large objects replace those of the one before."""
        if self._current:
            self._kept = self._current


def apply(flower: Flower, _context: Any) -> None:
    """Let Flower's SuperNode loop keep the last model it received."""
    cache = ModelCache()
    stock = flower[_PULL]

    def pull_and_store_message(**arguments: Any) -> Any:
        cache.begin()
        run_id = stock(**{**arguments, "pull_object": cache.pulling(arguments["pull_object"])})
        if run_id is not None:
            cache.end()
        return run_id

    flower.replace(_PULL, pull_and_store_message)


PATCH = Patch(
    name="model-cache",
    process="supernode",
    purpose="a model that a client has just received is not fetched again",
    without="a client that evaluates a model and then trains from it fetches it twice",
    needs={_PULL: "eaf5d0e36dc3"},
    after=("small-objects",),
    apply=apply,
)
