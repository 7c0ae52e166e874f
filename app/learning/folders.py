"""What is in a folder of pictures."""

import os
from pathlib import Path


def files_in(path: Path) -> list[Path]:
    """Every file under `path` but hidden ones, sorted; links to directories are followed once.

    Raises OSError for a directory that cannot be read: `rglob` would pass over it in silence.
    """

    def cannot_read(error: OSError) -> None:
        raise error

    found: list[Path] = []
    seen: set[str] = set()
    for directory, names, files in os.walk(path, onerror=cannot_read, followlinks=True):
        names[:] = [name for name in names if not _hidden(name)]
        real = os.path.realpath(directory)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        found += [Path(directory, file) for file in files if not _hidden(file)]
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
