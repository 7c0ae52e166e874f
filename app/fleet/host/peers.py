"""Whose socket is at the other end of a connection on this machine: the kernel tells, for TCP in ``/proc/net/tcp``."""

import os
import socket
import struct
import sys
from pathlib import Path

SOCKETS = Path("/proc/net/tcp")  # proc(5); the sockets of this network namespace
LOOKS = 3  # the list is read in parts, and a socket may be missed where others come and go meanwhile


def owner(local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """The user id of the IPv4 socket at ``local`` that is connected to ``remote``; None where there is none.

    A socket whose process has closed it has no inode. Its user id reads 0 then, so it counts as nobody's.
    """
    ends = [_hexadecimal(local), _hexadecimal(remote)]
    for _ in range(LOOKS):
        with SOCKETS.open(encoding="ascii") as lines:
            for line in lines:
                fields = line.split()
                if fields[1:3] == ends:
                    return int(fields[7]) if fields[9] != "0" else None
    return None


def user_of(descriptor: int) -> int:
    """The user id of the process that connected to a socket in the file system, unix(7); its ids as ``ucred`` has them."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


def _hexadecimal(address: tuple[str, int]) -> str:
    """An address as the kernel prints it: the four bytes as one number of this machine."""
    number = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{number:08X}:{address[1]:04X}"
