"""Node keys of clients that share a host: each client gets the key of its own partition and sees no other.

One process has the folder of all keys. A client that holds the lease of a partition (``partition_ids``) sends it the
locked file over a Unix socket. The lock belongs to the open file, so having it is the proof, and nothing secret is
needed between the two. Apps have no sockets, and so cannot ask (``app/fleet/warm/confinement.py``).
"""

import atexit
import fcntl
import os
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from app.environment import is_whole
from app.errors import UserError
from app.files import write_atomically
from app.fleet.host.ports import bind_private
from app.fleet.identity.files import read_private

SUFFIX = ".sock"  # BOUQUET_NODE_KEY names a socket
REQUEST_S = 2.0  # a client sends its request at once
START_S = 60.0  # for the process with the keys to start
PAUSE_S = 0.2
REFUSED = b"refused: "


def hand_out(keys: Path, leases: Path, address: Path) -> None:
    """Serve the keys of a folder, <partition id>.key, until this process ends.

    Args:
        keys: the folder of the keys. It is read at each request.
        leases: the folder of the leases.
        address: the socket's file.
    """
    try:
        listener = bind_private(address)
    except OSError as error:
        raise UserError(
            f"{address} cannot be made a socket ({error.strerror}): choose another folder"
        ) from None
    with listener:
        listener.listen(128)
        while True:
            with listener.accept()[0] as connection, suppress(OSError):
                connection.settimeout(REQUEST_S)
                connection.sendall(_answer(connection, keys, leases))


def _answer(connection: socket.socket, keys: Path, leases: Path) -> bytes:
    """The key that a client asked for, or why it does not get it."""
    request, files, _, _ = socket.recv_fds(connection, 16, 1)
    try:
        number = request.decode(errors="replace")
        if len(files) != 1 or not is_whole(number) or not _holds(files[0], leases / f"{number}.lock"):
            return REFUSED + b"the client does not hold the lease of this partition"
        return read_private(keys / f"{number}.key", "node key")
    except UserError as error:
        return REFUSED + str(error).encode()
    finally:
        for file in files:
            os.close(file)


def _holds(file: int, lease: Path) -> bool:
    """Whether the lease is locked through this open file, by the client that sent it."""
    try:
        if not os.path.samestat(os.fstat(file), lease.stat()):
            return False
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no change where it holds the lock
    except OSError:
        return False
    return True


def fetch(address: Path, partition: int, lease: IO[str] | None) -> Path:
    """Ask for this client's key, and keep it in a private folder until this process ends; the path of its file.

    Raises:
        UserError: nobody hands out keys at ``address``, or it refuses.
    """
    if lease is None:
        raise UserError(
            f"BOUQUET_NODE_KEY={address} hands a key to whoever holds a lease: set BOUQUET_LEASES, or give the file of a key"
        )
    answer = _ask(address, partition, lease)
    if not answer or answer.startswith(REFUSED):
        reason = answer.removeprefix(REFUSED).decode(errors="replace") or "the connection ended"
        raise UserError(f"BOUQUET_NODE_KEY={address} gave no key for partition {partition}: {reason}")
    path = Path(tempfile.mkdtemp(prefix="bouquet-key-")) / "node.key"
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    write_atomically(path, answer, 0o600)
    return path


def _ask(address: Path, partition: int, lease: IO[str]) -> bytes:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(START_S)
                connection.connect(str(address))
                socket.send_fds(connection, [str(partition).encode()], [lease.fileno()])
                return b"".join(iter(lambda: connection.recv(65_536), b""))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"BOUQUET_NODE_KEY={address}: nobody hands out keys there ({error.strerror}); "
                    "start `bouquet pki hand-out` (service `keys` of Compose)"
                ) from None
            time.sleep(PAUSE_S)
        except OSError as error:
            raise UserError(f"BOUQUET_NODE_KEY={address} cannot be asked for a key: {error}") from None
