"""Talking to a warm process: one JSON packet for a request, with file descriptors beside it, and one for the answer."""

import json
import select
import socket
from typing import Any


class WarmStartError(Exception):
    """The warm parent did not start; Flower's own executor serves instead."""


class Peer:
    """The SuperNode's end of a control socket of the parent, an app parent or a worker."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.control, self.pid = control, pid

    def ask(self, request: dict[str, Any], *descriptors: int, timeout: float = 30.0) -> dict[str, Any]:
        socket.send_fds(self.control, [json.dumps(request).encode()], list(descriptors))
        return self.hear(timeout)

    def hear(self, timeout: float) -> dict[str, Any]:
        """What the process says next. It may be an app's, so its words are checked; raises OSError or ValueError."""
        self.control.settimeout(timeout)
        if not (packet := self.control.recv(1 << 16)):
            raise ConnectionError("the process has ended")
        try:
            answer = json.loads(packet)
        except RecursionError:
            answer = None
        if not isinstance(answer, dict):
            raise ValueError("the process does not answer as a warm process does")
        return answer

    def start(self, request: dict[str, Any], *descriptors: int) -> int:
        """Have the process start another; returns its pid. Raises OSError or ValueError."""
        if not isinstance(pid := self.ask(request, *descriptors).get("pid"), int):
            raise ValueError("the process has started no other")
        return pid

    def has_ended(self) -> bool:
        """Whether the process has hung up: nothing else comes from it unasked."""
        return bool(select.select([self.control], [], [], 0)[0])


def control_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a control socket."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
