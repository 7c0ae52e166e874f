"""How long an idle SuperNode sleeps before it asks the SuperLink again, and what wakes it meanwhile.

Stock Flower sleeps 3 s after every empty answer, which is the latency of each phase of each round. Bouquet's
SuperLink holds a request until there is a message (patch long-polls), so asking again at once costs nothing.
With any other SuperLink the pause grows with the time since the last message. A node that just answered gets its next
message soon, and an idle one may sleep. The delay stays a tenth of the time already waited.

While a node waits, gRPC wakes its threads 110 times a second. Three of four times the reason is that Flower watches the
channel's connectivity for a debug line. Unless that line is printed, the channel is not watched.

Read in flwr 1.39.0: ``supernode/start_client_internal.py`` calls ``time.sleep(3)`` in its main loop and
``time.sleep(0.5)`` while a reply is being made; ``client/grpc_rere_client/connection.py`` subscribes to its channel.
In grpcio 1.85 a subscription is a thread that asks every 0.2 s.
"""

import logging
import time
from typing import Any

from app.fleet.patches.registry import Flower, Patch

IDLE_SLEEP_S = 3
SHORTEST_PAUSE_S = 0.05
_CHANNEL = "flwr.client.grpc_rere_client.connection:create_channel"
_PULL = "flwr.supernode.start_client_internal:_pull_and_store_message"
_TIME = "flwr.supernode.start_client_internal:time"
HELD_S = 1.0  # an empty answer that took this long was held by the SuperLink


class Pauses:
    """Stands in for the module ``time`` in Flower's SuperNode loop."""

    def __init__(self) -> None:
        self._last_message = self._asked = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def asking(self) -> None:
        """The SuperNode is about to ask for a message."""
        self._asked = time.monotonic()

    def received(self) -> None:
        """A message has been processed."""
        self._last_message = time.monotonic()

    def pause_s(self) -> float:
        """Seconds to sleep after an empty answer."""
        now = time.monotonic()
        if now - self._asked >= HELD_S:
            return 0.0
        return min(max(0.1 * (now - self._last_message), SHORTEST_PAUSE_S), float(IDLE_SLEEP_S))

    def sleep(self, seconds: float) -> None:
        """Sleep as Flower's loop asks, but shorter where it idles."""
        time.sleep(self.pause_s() if seconds == IDLE_SLEEP_S else seconds)


def apply(flower: Flower, _context: Any) -> None:
    """Let Flower's SuperNode loop pause adaptively, and its channel rest."""
    create, stock, pauses = flower[_CHANNEL], flower[_PULL], Pauses()

    def create_channel(*args: Any, **kwargs: Any) -> Any:
        channel = create(*args, **kwargs)
        if all(handler.level > logging.DEBUG for handler in logging.getLogger("flwr").handlers):
            channel.subscribe = lambda *_, **__: None
        return channel

    def pull_and_store_message(**arguments: Any) -> Any:
        pauses.asking()
        run_id = stock(**arguments)
        if run_id is not None:
            pauses.received()
        return run_id

    flower.replace(_CHANNEL, create_channel)
    flower.replace(_PULL, pull_and_store_message)
    flower.replace(_TIME, pauses)


PATCH = Patch(
    name="polling",
    process="supernode",
    purpose="an idle SuperNode asks again at once where the SuperLink holds requests, and its channel rests",
    without="a SuperNode sleeps 3 s after each empty answer, and gRPC wakes it 110 times a second",
    needs={
        _CHANNEL: "6d71819bdc98",
        _PULL: "eaf5d0e36dc3",
        _TIME: "",
        "flwr.supernode.start_client_internal:start_client_internal": "bb3df95a5f63",
    },
    after=("model-cache", "client-certificate"),
    apply=apply,
)
