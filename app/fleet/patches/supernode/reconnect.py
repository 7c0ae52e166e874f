"""A client says often that it is alive, and dials again for as long as it takes.

Flower's SuperNode sends a heartbeat every 20 s and counts as online for 60 s. It waits up to 20 s between two tries to
reach the SuperLink, while gRPC waits up to 120 s between two tries of its own. A request that is held on a connection
that was cut off without a word waits for a quarter of an hour. And a client whose earlier self died a moment ago ends,
because the SuperLink still takes that one for online. Here a client waits at most 5 s between two tries of any kind, a
silent connection is given up after 30 s, and a client that counts as online tries again until it does not.

A server that comes back knows nothing of the run before. Flower's loop then keeps the task of a message that it has only in
part, and the child that is started for it waits for the rest for ever. Here such a message is dropped like any other that
did not come through.

Read in flwr 1.39.0: ``client/grpc_rere_client/connection.py``, ``supercore/heartbeat.py``, ``supercore/retry``,
``supercore/grpc.py``, ``supernode/start_client_internal.py``. What gRPC's options mean: github.com/grpc/grpc/blob/master/doc/keepalive.md.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

from app.fleet.patches.registry import Flower, Patch
from app.fleet.patches.supernode.connection_errors import TRY_AGAIN

LONGEST_WAIT_S = 5  # between two tries
BEATS = 0.4  # of the interval that a heartbeat names
# The SuperLink takes a client for lost after 1.2 intervals (``patches/lost_clients.py``), which is 0.8 of
# BOUQUET_LOST_AFTER. The rest is for the ServerApp to look. Flower's shortest interval, 10 s, is that of the default.
INTERVAL = 1 / 1.5
CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", LONGEST_WAIT_S * 1_000),
    # Heartbeats are answered more often than this, so no server takes these pings for too many.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
_CONNECTION = "flwr.client.grpc_rere_client.connection"
_INTERVAL = f"{_CONNECTION}:HEARTBEAT_DEFAULT_INTERVAL"
_SENDER = f"{_CONNECTION}:HeartbeatSender"
_GRPC = "flwr.supercore.grpc:grpc"
_PULL = "flwr.supernode.start_client_internal:_pull_and_store_message"
_ENDED = "flwr.supercore.run:RunNotRunningException"
_MAKE = "flwr.supernode.start_client_internal:_make_fleet_connection_retry_invoker"


class GrpcWithOptions:
    """Stands in for the module ``grpc`` where Flower opens its channel."""

    def __init__(self, grpc: Any) -> None:
        self._grpc = grpc

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grpc, name)

    def insecure_channel(self, target: str, options: Any = None) -> Any:
        return self._grpc.insecure_channel(target, options=[*(options or ()), *CHANNEL])

    def secure_channel(self, target: str, credentials: Any, options: Any = None) -> Any:
        return self._grpc.secure_channel(target, credentials, options=[*(options or ()), *CHANNEL])


def is_passing(error: Any, *, connected: bool) -> bool:
    """Whether an error of a call passes by itself.

    Args:
        error: a ``grpc.RpcError``.
        connected: whether this client has reached the SuperLink before; a handshake that fails then is no wrong setting.
    """
    import grpc

    code, details = error.code(), str(error.details() or "")
    if code == grpc.StatusCode.UNAVAILABLE:
        return connected or "handshake failed" not in details.lower()
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return "larger than max" not in details
    passing = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED)
    return code in passing or "online already" in details


def dropping_what_is_cut_short(pull: Callable[..., Any], ended: type[BaseException]) -> Callable[..., Any]:
    """Flower's ``_pull_and_store_message`` that forgets a message whose run has gone while it was fetched.

    Flower's function does so for each Exception, and ``ended`` is a BaseException.
    """

    def as_failure(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            try:
                return call(*arguments)
            except ended as error:
                raise ConnectionError("its run has gone") from error

        return called

    def pull_and_store_message(**arguments: Any) -> Any:
        calls = {name: as_failure(arguments[name]) for name in ("pull_object", "confirm_message_received")}
        return pull(**{**arguments, **calls})

    return pull_and_store_message


def apply(flower: Flower, context: Any) -> None:
    """Let a SuperNode beat and dial so. ``context.lost_after`` is the setting, in seconds."""
    from flwr.supercore.retry import exponential

    sender, make, interval = flower[_SENDER], flower[_MAKE], context.lost_after * INTERVAL
    chance = random.Random()  # the global one belongs to the app

    class SteadySender(sender):  # type: ignore[misc, valid-type]
        """Sends a heartbeat every few seconds, and keeps to that when one fails."""

        def _run(self) -> None:
            while not self._stop_event.is_set():
                try:
                    self.heartbeat_fn()
                except RuntimeError:
                    context.latest_error = f"{context.superlink}: the SuperLink does not know this client any more; it starts anew"
                    context.exit_status = TRY_AGAIN
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self._stop_event.wait(interval * BEATS * chance.uniform(0.9, 1.1))

    def make_patient(*args: Any, **kwargs: Any) -> Any:
        invoker = make(*args, **kwargs)
        give_up, succeeded, connected = invoker.should_giveup, invoker.on_success, False

        def should_give_up(error: Any) -> bool:
            return not is_passing(error, connected=connected) and bool(give_up(error))

        def on_success(state: Any) -> None:
            nonlocal connected
            connected = True
            context.latest_error, context.exit_status = "", 0
            if succeeded:
                succeeded(state)

        invoker.wait_gen_factory = lambda: exponential(max_delay=LONGEST_WAIT_S)
        invoker.wait_function = time.sleep
        invoker.should_giveup, invoker.on_success = should_give_up, on_success
        return invoker

    flower.replace(_PULL, dropping_what_is_cut_short(flower[_PULL], flower[_ENDED]))
    flower.replace(_INTERVAL, interval)
    flower.replace(_SENDER, SteadySender)
    flower.replace(_GRPC, GrpcWithOptions(flower[_GRPC]))
    flower.replace(_MAKE, make_patient)


PATCH = Patch(
    name="reconnect",
    process="supernode",
    purpose="a client that has died is noticed within BOUQUET_LOST_AFTER, and one that was cut off comes back by itself",
    without="a dead client counts as online for 60 s, and a client that comes back waits for minutes or ends",
    needs={
        _INTERVAL: "",
        _SENDER: "",
        f"{_SENDER}._run": "b176ff96c68d",
        _GRPC: "",
        _MAKE: "2723add5e3c6",
        _PULL: "eaf5d0e36dc3",
        _ENDED: "",
    },
    after=("polling",),
    apply=apply,
)
