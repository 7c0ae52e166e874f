"""Files that hold secrets: only their owner may read them."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import UserError


def make_directory(path: Path) -> None:
    """Create `path` and its parents; what is already there keeps its mode.

    Raises UserError where that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, FileExistsError) as error:
        raise UserError(f"{path} cannot be made a directory: {error.strerror or error}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(
            f"{path} is not writable by user {os.geteuid()}: chown {os.geteuid()} {path}, "
            "or choose another directory"
        )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process: two set-up commands at once must not both make a CA."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read(path: Path, what: str) -> bytes:
    """Return the bytes of `path`. `what` names the file in the UserError raised where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except PermissionError:
        raise UserError(
            f"{what} {path} cannot be read by user {os.geteuid()}: "
            f"chown {os.geteuid()} {path} && chmod 600 {path}"
        ) from None
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from None


def read_private(path: Path, what: str) -> bytes:
    """Return the bytes of a secret, or refuse it because others could have read it too.

    Readable by a group passes in one case only: root owns the file and this process, which is not
    root, can read it through its group and not write it. That is how Kubernetes hands a Secret to a
    process that is not root (`fsGroup`), and no chmod of the user can change it.
    """
    content = read(path, what)
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    exposed = mode & 0o077
    handed_by_root = (
        status.st_uid == 0
        and os.geteuid() != 0
        and status.st_gid in {os.getegid(), *os.getgroups()}
        and exposed == 0o040
    )
    if exposed and not handed_by_root:
        raise UserError(f"{what} {path} can be read by others (mode {mode:04o}): run `chmod 600 {path}`")
    return content
