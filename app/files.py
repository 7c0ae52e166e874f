"""Files that a reader sees whole or not at all, also after a power cut. Imports nothing of this package."""

import os
import secrets
from pathlib import Path

PRIVATE = 0o600
PUBLIC = 0o644


def write_atomically(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write ``content`` to a temporary file and rename it to ``path``; ``mode`` None leaves it to the umask.

    A reader sees the old content or the new, never half of it. File and folder are on disk when this returns.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)  # the rename is an entry of the folder


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_latest(folder: Path) -> None:
    """Let the link ``latest`` beside ``folder`` name it."""
    link = folder.with_name("latest")
    aside = link.with_name(f".latest.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(folder.name)
    aside.replace(link)
