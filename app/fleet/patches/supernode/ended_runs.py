"""A SuperNode gives up a message whose run has ended: it was stopped, or it went on without this client.

A SuperNode works on one message at a time. In stock Flower a ClientApp that hangs keeps its node from every later run.
Here the SuperNode asks the SuperLink now and then whether the run of its message is still under way. If not, it ends the
ClientApp's processes and asks for the next message. The question is Flower's own ``GetRun``, so any SuperLink answers it.

Read in flwr 1.39.0: ``supernode/start_client_internal.py``, ``supercore/retry/grpc_retry.py``.
"""

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
WAIT_FOR_REPLY_S = 0.5  # what Flower's loop sleeps while it waits for a reply
PROGRAM = "flwr-clientapp"
_LOOP = "flwr.supernode.start_client_internal"
_PULL, _PUSH, _TIME = f"{_LOOP}:_pull_and_store_message", f"{_LOOP}:_push_messages", f"{_LOOP}:time"
_ENDED = f"{_LOOP}:RunNotRunningException"


class RunWatch:
    """Whether the run of the message at hand is over.

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
        self.run_id: int | None = None

    def begin(self, run_id: int, get_run: Callable[[int], Any]) -> None:
        """A message of this run has come."""
        self.run_id, self._get_run, self._asked = run_id, get_run, self._clock()

    def is_over(self) -> bool:
        """Whether the run is known to be over. Asks, if it is time to; the answer is for a later call."""
        if self.run_id is None or self._over == self.run_id:
            return self.run_id is not None
        waiting = self._asking is not None and self._asking.is_alive()
        if self._clock() - self._asked >= ASK_EVERY_S and not waiting:
            self._asked = self._clock()
            self._asking = threading.Thread(target=self._ask, args=(self.run_id,), daemon=True)
            self._asking.start()
        return False

    def _ask(self, run_id: int) -> None:
        try:
            with suppress(Exception):
                self._get_run(run_id)
        except self._ended:
            self._over = run_id


class WatchfulTime:
    """Stands in for the module ``time`` in Flower's SuperNode loop: what waits for a reply looks after its run."""

    def __init__(self, stock: Any, watch: RunWatch, ended: type[BaseException]) -> None:
        self._stock, self._watch, self._ended = stock, watch, ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def sleep(self, seconds: float) -> None:
        """Sleep. Raises RunNotRunningException where the run of the awaited reply is over."""
        if seconds == WAIT_FOR_REPLY_S and self._watch.is_over():
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
    watch = RunWatch(ended)
    if context.executor is not None:
        context.executor.is_over = watch.is_over

    def pull_and_store_message(**arguments: Any) -> Any:
        run_id = pull(**arguments)
        if run_id is not None:
            watch.begin(run_id, arguments["get_run"])
        return run_id

    def push_messages(state: Any, object_store: Any, send: Any, push_object: Any) -> None:
        try:
            push(state, object_store, send, push_object)
        except ended:
            log(INFO, "Run ID %s has ended. Giving up its message.", watch.run_id)
            for task in state.get_tasks(run_ids=[watch.run_id]):
                state.finish_task(task.task_id, SubStatus.FAILED, "the run has ended")
            end_programs()
            state.delete_messages()  # there is one at a time
            object_store.clear()

    flower.replace(_PULL, pull_and_store_message)
    flower.replace(_PUSH, push_messages)
    flower.replace(_TIME, WatchfulTime(flower[_TIME], watch, ended))


PATCH = Patch(
    name="ended-runs",
    process="supernode",
    purpose="a client that hangs is free for the next run when its run has ended or was stopped",
    without="a ClientApp that hangs keeps its node from every later run",
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
