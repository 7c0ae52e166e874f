"""What Flower's handlers and interceptors see of one call."""

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import grpc

Subscribe = Callable[[Callable[[], None]], Callable[[], None]]


class Refused(Exception):
    """A caller who may not make this call. Raised before the body of the call is read."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


class Details(NamedTuple):
    """What an interceptor sees: a call without its body, and who makes it, as gRPC names the connection."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...]
    peer: str


class CallContext:
    """Stands for grpc.ServicerContext in handlers that run in a worker thread.

    Attributes:
        active: whether the caller is still there.
        trailing: metadata that goes out with the answer.
        later: set by :meth:`answer_later`.
        hold_s: seconds that the call may be held; 0 where it is not.
    """

    def __init__(self, details: Details) -> None:
        self._details = details
        self._code: grpc.StatusCode | None = None
        self._message = ""
        self.active = True
        self.trailing: tuple[Any, ...] = ()
        self.later: Subscribe | None = None
        self.hold_s = 0.0

    def answer_later(self, subscribe: Subscribe, hold_s: float) -> None:
        """Hold the call: run the handler again when there is something new, for ``hold_s`` seconds at most.

        ``subscribe`` takes a function to call then, from any thread, and returns one that forgets it.
        """
        self.later, self.hold_s = subscribe, hold_s

    def is_active(self) -> bool:
        return self.active

    def peer(self) -> str:
        return self._details.peer

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._details.invocation_metadata

    def set_trailing_metadata(self, metadata: tuple[Any, ...]) -> None:
        self.trailing = tuple(metadata)

    def trailing_metadata(self) -> tuple[Any, ...]:
        return self.trailing

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def details(self) -> str:
        return self._message

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the call with an error, as grpc does: by an exception without words."""
        self._code, self._message = code, details
        raise Exception
