"""Connections of this process: how many there may be, of all and of a member, and ending one. gRPC has no call for them."""

import os
import resource
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from app.environment import is_whole

MOST_FILES = 65_536
CONNECTIONS_PER_MEMBER = 8  # a SuperNode has one, and a second one while it connects anew
RESERVED_FILES = 256  # for the Control API, the ServerApps, files and logs


def raise_file_limit() -> int:
    """Let this process open as many files as it may, at most ``MOST_FILES``; return how many.

    Each connection is one. The soft limit of most systems is 1,024, for the sake of programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return most if soft == resource.RLIM_INFINITY else soft


class MemberConnections:
    """The connections on which each member makes calls. It keeps those that it used last: each takes 140 kB of memory."""

    def __init__(self) -> None:
        self._of_member: dict[bytes, dict[str, None]] = {}  # by the last call, the latest at the end
        self._owner: dict[str, bytes] = {}

    def called(self, key: bytes, peer: str) -> str | None:
        """Note a call of a member on a connection; returns the connection that it has to give up for it."""
        former = self._owner.pop(peer, key)  # the system may give another member the same port
        self._of_member.get(former, {}).pop(peer, None)
        self._owner[peer] = key
        peers = self._of_member.setdefault(key, {})
        peers[peer] = None
        if len(peers) <= CONNECTIONS_PER_MEMBER:
            return None
        oldest = next(iter(peers))
        del peers[oldest], self._owner[oldest]
        return oldest


def end_connection(peer: str) -> None:
    """Close the TCP connection with ``peer``, as gRPC names it: ``ipv4:192.0.2.1:5000`` or ``ipv6:[::1]:5000``."""
    host, _, port = unquote(peer).removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")
    address = (host.strip("[]"), int(port)) if is_whole(port) else None
    for file in Path("/proc/self/fd").iterdir() if address else ():
        with suppress(OSError):
            if not str(file.readlink()).startswith("socket:"):
                continue
            # A duplicate: whatever gRPC does with its own meanwhile, this is the socket that was looked at.
            with socket.socket(fileno=os.dup(int(file.name))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6) and _same(
                    connection.getpeername(), address
                ):
                    connection.shutdown(socket.SHUT_RDWR)


def _same(name: tuple[str, int], address: tuple[str, int] | None) -> bool:
    return address is not None and (name[0].removeprefix("::ffff:"), name[1]) == address
