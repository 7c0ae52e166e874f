"""A SuperNode gives up a message whose run has ended, or whose time to live is over.

A SuperNode works on one message at a time. In stock Flower a ClientApp that hangs keeps its node from every later message
and run. Here the SuperNode asks the SuperLink now and then whether the run of its message is still under way: it may have
been stopped, or have gone on without this client. The question is Flower's own ``GetRun``, so any SuperLink answers it.
A message also says for how long its reply is worth something. When either is over, the SuperNode ends the ClientApp's
processes and asks for the next message. The time runs from the moment when the message came: clocks differ.

Read in flwr 1.39.0: ``supernode/start_client_internal.py``, ``supercore/retry/grpc_retry.py``.
"""

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from logging import INFO
from typing import Any

import psutil

from app.fleet.patches.registry import Flower, Patch

ASK_EVERY_S = 10.0
BEFORE_S = 2.0  # so that the SuperLink still takes the reply that says so
RUN_OVER = "its run has ended"
WAIT_FOR_REPLY_S = 0.5  # what Flower's loop sleeps while it waits for a reply
PROGRAM = "flwr-clientapp"
_LOOP = "flwr.supernode.start_client_internal"
_PULL, _PUSH, _TIME = f"{_LOOP}:_pull_and_store_message", f"{_LOOP}:_push_messages", f"{_LOOP}:time"
_ENDED = f"{_LOOP}:RunNotRunningException"


class MessageWatch:
    """Whether the message at hand is to be given up.

    The question has a thread of its own: it waits where the SuperLink is away, and the message must go on meanwhile.

    Args:
        ended: the exception by which Flower's ``get_run`` says that a run is not running.
    """

    def __init__(self, ended: type[BaseException], clock: Callable[[], float] = time.monotonic) -> None:
        self._ended, self._clock = ended, clock
        self._get_run: Callable[[int], Any] = lambda _: None
        self._asked = clock()
        self._asking: threading.Thread | None = None
        self._over: int | None = None  # the latest run that is known to have ended
        self._time_to_live, self._until = 0.0, math.inf
        self.run_id: int | None = None

    def came(self, time_to_live: float) -> None:
        """A message has come whose reply is worth something for so many seconds."""
        self._time_to_live, self._until = time_to_live, self._clock() + max(time_to_live - BEFORE_S, 0.0)

    def begin(self, run_id: int, get_run: Callable[[int], Any]) -> None:
        """The message that has come is of this run."""
        self.run_id, self._get_run, self._asked = run_id, get_run, self._clock()

    def why_over(self) -> str:
        """Why the message is given up; empty where it is not. Asks, if it is time to; the answer is for a later call."""
        if self.run_id is None:
            return ""
        if self._over == self.run_id:
            return RUN_OVER
        if self._clock() >= self._until:
            return (
                f"it took longer than its message's time to live of {self._time_to_live:.0f} s, and was ended"
            )
        waiting = self._asking is not None and self._asking.is_alive()
        if self._clock() - self._asked >= ASK_EVERY_S and not waiting:
            self._asked = self._clock()
            self._asking = threading.Thread(target=self._ask, args=(self.run_id,), daemon=True)
            self._asking.start()
        return ""

    def has_ended(self, run_id: int) -> bool:
        """Whether the SuperLink says that a run has ended. Waits for the answer."""
        try:
            with suppress(Exception):
                self._get_run(run_id)
        except self._ended:
            return True
        return False

    def _ask(self, run_id: int) -> None:
        if self.has_ended(run_id):
            self._over = run_id


class WatchfulTime:
    """Stands in for the module ``time`` in Flower's SuperNode loop: what waits for a reply looks after its message."""

    def __init__(self, stock: Any, watch: MessageWatch, ended: type[BaseException]) -> None:
        self._stock, self._watch, self._ended = stock, watch, ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def sleep(self, seconds: float) -> None:
        """Sleep. Raises RunNotRunningException where the awaited reply is worth nothing any more."""
        if seconds == WAIT_FOR_REPLY_S and self._watch.why_over():
            raise self._ended
        self._stock.sleep(seconds)


def end_programs() -> None:
    """End each ClientApp that this process's SuperExec has started, and what that has started."""
    for each in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.Error):
            if any(PROGRAM in word for word in each.cmdline()):
                for process in [*each.children(recursive=True), each]:
                    with suppress(psutil.Error):
                        process.kill()


def apply(flower: Flower, context: Any) -> None:
    """Let a SuperNode look after the run of its message."""
    from flwr.common.constant import SubStatus
    from flwr.supercore import log

    pull, push, ended = flower[_PULL], flower[_PUSH], flower[_ENDED]
    watch = MessageWatch(ended)
    if context.executor is not None:
        context.executor.why_over, context.executor.has_ended = watch.why_over, watch.has_ended

    def pull_and_store_message(receive: Any, **arguments: Any) -> Any:
        def received() -> Any:
            if (found := receive()) is not None:
                watch.came(found[0].metadata.ttl)
            return found

        run_id = pull(receive=received, **arguments)
        if run_id is not None:
            watch.begin(run_id, arguments["get_run"])
        return run_id

    def push_messages(state: Any, object_store: Any, send: Any, push_object: Any) -> None:
        try:
            push(state, object_store, send, push_object)
        except ended:
            reason = watch.why_over() or RUN_OVER
            log(INFO, "Giving up a message of run %s: %s", watch.run_id, reason)
            for task in state.get_tasks(run_ids=[watch.run_id]):
                state.finish_task(task.task_id, SubStatus.FAILED, reason)
            end_programs()
            state.delete_messages()  # there is one at a time
            object_store.clear()

    flower.replace(_PULL, pull_and_store_message)
    flower.replace(_PUSH, push_messages)
    flower.replace(_TIME, WatchfulTime(flower[_TIME], watch, ended))


PATCH = Patch(
    name="ended-runs",
    process="supernode",
    purpose="a client that hangs is free again when its run has ended or was stopped, or its message's time is over",
    without="a ClientApp that hangs keeps its node from every later message and run",
    needs={
        _PULL: "eaf5d0e36dc3",
        _PUSH: "5f09f2f7a86c",
        _TIME: "",
        _ENDED: "",
        f"{_LOOP}:start_client_internal": "bb3df95a5f63",
    },
    after=("warm", "polling"),
    apply=apply,
)
