"""Open files on their way between an app's own processes, such as the tensors of PyTorch's data loaders.

Python's ``multiprocessing`` passes an open file over a socket in the file system, to which others could connect. A
confined app cannot connect to any socket. So here the files travel over a socket pair that all processes of a message
inherit.

Read in CPython 3.11: ``multiprocessing/resource_sharer.py``. Like ``parent.py``, this module imports nothing of this
package.
"""

import os
import socket
import threading
from multiprocessing import resource_sharer

NAME_LENGTH = 16
_channel: list[socket.socket] = []  # its sending and its receiving end
_received: dict[bytes, int] = {}
_lock = threading.Lock()


class DupFd:
    """An open file that another process takes over once: Python's class of this name, without its server."""

    def __init__(self, descriptor: int) -> None:
        self._name = os.urandom(NAME_LENGTH)
        socket.send_fds(_channel[0], [self._name], [descriptor])

    def detach(self) -> int:
        """The file's descriptor in this process."""
        with _lock:
            while self._name not in _received:
                name, files, _, _ = socket.recv_fds(_channel[1], NAME_LENGTH, 1)
                _received[name] = files[0]
            return _received.pop(self._name)


def open_channel() -> None:
    """Let this process and its forks pass files; each message needs a channel of its own."""
    _channel[:] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    resource_sharer.DupFd = DupFd  # type: ignore[misc,assignment]
