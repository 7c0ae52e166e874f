"""The files and class directories of a folder of pictures."""

import errno
import os
import stat
from pathlib import Path

from app.errors import UserError

LARGEST_FILE = 256 << 20
"""Bytes of a file that is read as one picture."""

_KINDS = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def check_entries(path: Path) -> None:
    """Raise UserError for a name under `path` that is not UTF-8, and for a pipe, a socket or a device.

    The first cannot be written into a manifest. The others hang whoever reads them, or never end. Raises OSError for a
    directory that cannot be read.
    """
    for entry in sorted({path, *(folder for file in files_in(path) for folder in (file, file.parent))}):
        check_name(entry)
        try:
            kind = _KINDS.get(stat.S_IFMT(entry.stat().st_mode))
        except OSError:  # a broken link, which the picture's turn names
            continue
        if kind:
            raise UserError(f"DATASET={path}: {entry} is a {kind} and no file; remove it")


def check_name(path: Path) -> None:
    """Raise UserError where the name of `path` is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"the name {path} is not UTF-8; rename it") from None


def read_file(path: str) -> bytes:
    """The bytes of a regular file of at most LARGEST_FILE. Raises OSError, also where it became a pipe meanwhile."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
            raise OSError(errno.EFBIG, "no file of a picture's size", path)
        return file.read(LARGEST_FILE)


def files_in(path: Path) -> list[Path]:
    """Every file under `path` but hidden ones, sorted; links to directories are followed once.

    Raises OSError for a directory that cannot be read: `rglob` would pass over it in silence.
    """

    def cannot_read(error: OSError) -> None:
        raise error

    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    try:
        for directory, names, files in os.walk(path, onerror=cannot_read, followlinks=True):
            names[:] = [name for name in names if not _hidden(name)]
            status = Path(directory).stat()
            if (status.st_dev, status.st_ino) in seen:
                names.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            found += [Path(directory, file) for file in files if not _hidden(file)]
    except RecursionError:
        raise OSError(errno.ENAMETOOLONG, "its folders are nested too deeply", str(path)) from None
    return sorted(found)


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def class_directories(path: Path) -> list[Path]:
    """The directories directly under `path`, sorted by name, without hidden ones."""
    return sorted(d for d in path.iterdir() if d.is_dir() and not _hidden(d.name))


def pictures_in(path: Path) -> list[Path]:
    """The files under `path` that are named like pictures, sorted."""
    from PIL import Image

    suffixes = Image.registered_extensions()
    return [file for file in files_in(path) if file.suffix.lower() in suffixes]
