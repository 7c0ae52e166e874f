"""`bouquet prepare`: read a source once, divide it among the clients, write the data store.

Everything is written under DIR/.preparing and renamed into DIR at the end, the manifest last. DIR itself
may be a mounted volume, which no rename can replace.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import UserError, printable
from app.learning.data.hub import FULL
from app.learning.data.partitioners import PartitionerSettings
from app.learning.data.pictures import DEFAULT_SIZE, LARGEST_SIZE, FormatMismatch, first_format
from app.learning.data.sources import Loaded, Source, find, load
from app.learning.data.store import MANIFEST, Counts, Manifest, Store
from app.learning.data.writing import SplitWriter, encoded, sync

VALIDATION_SHARE = 0.2
"""Share of each partition that the client validates on, as in the tutorial."""

_STAGING = ".preparing"
_LOCK = ".lock"
_ATTEMPTS = 20  # at making a folder that another process may be removing
_SHOWN = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What is asked for: a source, its division among the clients, and how its pictures are read.

    Attributes:
        source: a hub name, a folder or file, or ``digits``.
        num_partitions: parts, one for each client.
        partitioner: how the source is divided; ``alpha``, ``classes_per_partition`` and ``shards_per_partition`` are
            settings of some partitioners.
        seed: of the division and of the 80/20 split.
        subset: configuration of a hub data set that has several.
        image_column, label_column: where the source does not tell by itself.
        image_size: edge in pixels that every picture is resized to. Default: as they are where all are alike, else 32.
        classes: class names in their order, for a client's own pictures.
        tolerance: unreadable pictures that may be left out.

    Raises:
        UserError: a value cannot be used.
    """

    source: str
    num_partitions: int = 10
    partitioner: str = "iid"
    seed: int = 42
    alpha: float | None = None
    classes_per_partition: int | None = None
    shards_per_partition: int | None = None
    subset: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    image_size: int | None = None
    classes: list[str] | None = None
    tolerance: int = 0

    def __post_init__(self) -> None:
        _ = self.division
        if self.image_size is not None and not 8 <= self.image_size <= LARGEST_SIZE:
            raise UserError(f"image-size={self.image_size} must be between 8 and {LARGEST_SIZE} pixels")
        if self.tolerance < 0:
            raise UserError(f"tolerance={self.tolerance} must be 0 or more unreadable pictures")
        if self.classes is not None and (
            len(set(self.classes)) != len(self.classes) or len(self.classes) < 2
        ):
            raise UserError("classes must name two or more different classes, separated by commas")

    @property
    def division(self) -> PartitionerSettings:
        """The partitioner and its settings."""
        return PartitionerSettings(
            self.partitioner,
            self.num_partitions,
            self.seed,
            self.alpha,
            self.classes_per_partition,
            self.shards_per_partition,
        )

    def digest(self, found: Source) -> str:
        """Equal for requests that make the same store."""
        division = self.division
        divided = (division.name, division.num_partitions, division.own())
        reading = (
            self.subset, self.image_column, self.label_column, self.image_size, self.classes, self.tolerance,
        )  # fmt: skip
        return _digest(found.identity(), self.seed, None if found.kind == "pictures" else divided, reading)


def prepare(request: Request, out: Path, *, force: bool = False) -> Manifest:
    """Write the data store ``out`` and return its manifest. Preparing the same again is a no-op.

    Args:
        request: what is asked for.
        out: folder of the store.
        force: replace a store made for another request.

    Raises:
        UserError: whatever the caller can mend; ``out`` is then as it was before.
    """
    found = find(request.source)
    digest = request.digest(found)
    # Before anything is written: a prepared store may be mounted read-only.
    existing = _existing(out, digest, request.source, force)
    if existing is not None:
        return existing
    with _locked(out) as created:
        existing = _existing(out, digest, request.source, force)
        if existing is not None:
            return existing
        complete = False
        try:
            _refuse_foreign_files(out)
            manifest = _make(request, found, digest, out)
            complete = True
        except OSError as error:
            raise _writing_failed(out, error) from None
        finally:
            shutil.rmtree(out / _STAGING, ignore_errors=True)
            if not complete and not (out / MANIFEST).exists():
                (out / _LOCK).unlink(missing_ok=True)
                if created:
                    with suppress(OSError):
                        out.rmdir()
    return manifest


def _make(request: Request, found: Source, digest: str, out: Path) -> Manifest:
    """Load, write aside, and move the whole store into ``out``."""
    staging, division, pictures = out / _STAGING, request.division, found.kind == "pictures"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    loaded = load(
        found,
        division,
        scratch=staging / "scratch",
        subset=request.subset,
        image_column=request.image_column,
        label_column=request.label_column,
        classes=request.classes,
    )
    written = _write(loaded, staging / "store", request.image_size, found, request.seed, request.tolerance)
    manifest = Manifest(
        source=request.source,
        partitioner="none" if pictures else division.name,
        partitioner_settings={} if pictures else division.own(),
        num_partitions=loaded.num_partitions,
        seed=request.seed,
        classes=loaded.classes,
        image_column=loaded.image_column,
        label_column=loaded.label_column,
        test_from=loaded.test_from,
        request=digest,
        **written,
    )
    _publish(staging / "store", out, manifest)
    return manifest


def _existing(out: Path, request: str, source: str, force: bool) -> Manifest | None:
    """The manifest in `out` if it answers `request` and every array is there; None if there is none."""
    try:
        if not (out / MANIFEST).exists():
            return None
    except OSError as error:
        raise _writing_failed(out, error) from None
    try:
        store = Store.open(out)
        if store.manifest.request == request:
            for i in range(store.manifest.num_partitions):
                store.partition(i)
            len(store.test)
    except UserError as error:
        log.warning("%s: preparing it again (%s)", out, str(error).partition(";")[0])
        return None
    if store.manifest.request == request:
        return store.manifest
    if force:
        return None
    manifest = store.manifest
    raise UserError(
        f"{out} was prepared otherwise (DATASET={manifest.source}, NUM_CLIENTS={manifest.num_partitions}, "
        f"PARTITIONER={manifest.partitioner}, seed={manifest.seed}) or from other data than DATASET={source} "
        "now; give another --out, or --force to replace it"
    )


@contextmanager
def _locked(out: Path) -> Iterator[bool]:
    """Hold the lock of the store `out`; yields whether the directory was created for it.

    A file rather than the directory is locked because NFS refuses the latter.
    """
    removed = 0
    while True:
        try:
            created = not out.exists()
            out.mkdir(parents=True, exist_ok=True)
            file = (out / _LOCK).open("a")
        except OSError as error:
            removed += isinstance(error, FileNotFoundError)
            if isinstance(error, FileNotFoundError) and removed < _ATTEMPTS:
                continue  # another prepare failed and has just removed the directory
            raise _writing_failed(out, error) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("waiting for another `bouquet prepare` of %s", out)
                fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), (out / _LOCK).stat()):
                    yield created
                    return
        # The prepare that held the lock failed and removed the file: this lock guards nothing.


def _refuse_foreign_files(out: Path) -> None:
    """Raise UserError for a directory that holds other files than those of a store."""
    for entry in out.iterdir():
        own = entry.name in (MANIFEST, _LOCK, _STAGING, "lost+found")
        if not own and not entry.name.startswith("partition-") and not entry.match("test_*.npy"):
            raise UserError(f"{out} holds other files ({entry.name}); give a new or an empty directory")


def _writing_failed(out: Path, error: OSError) -> UserError:
    if error.errno in FULL:
        return UserError(
            f"{out}: the disk is full, or a quota or file size limit is reached, while preparing; "
            "free some space or give a directory on a larger disk"
        )
    reason = error.strerror or " ".join(str(error).split())
    return UserError(f"{out} cannot be written: {reason}; give a directory that can be, or run in one")


def _write(
    loaded: Loaded, target: Path, image_size: int | None, source: Source, seed: int, tolerance: int
) -> dict[str, Any]:
    """Decode and write every split to `target`; returns the fields of the manifest that depend on it."""
    first = encoded(loaded.partition(0)[:_SHOWN]["image"], loaded.roots)
    image_format = first_format(first, _size(image_size, source))
    while True:
        shutil.rmtree(target, ignore_errors=True)
        writer = SplitWriter(target, image_format, loaded.values, loaded.roots)
        try:
            counts = []
            for i in range(loaded.num_partitions):
                split = loaded.partition(i).train_test_split(test_size=VALIDATION_SHARE, seed=seed)
                part = f"partition-{i}"
                counts.append(
                    (writer.add(split["train"], f"{part}/train"), writer.add(split["test"], f"{part}/val"))
                )
            test_count = writer.add(loaded.test, "test") if loaded.test is not None else counts[0][1]
        except FormatMismatch as other:
            image_format = other.image_format
            continue
        break
    _check_unreadable(writer, source.name, tolerance)
    if test_count == 0 or any(0 in pair for pair in counts):
        raise UserError(f"DATASET={source.name}: too few readable pictures; mend them or use other data")
    return {
        "shape": image_format.shape,
        "counts": [Counts(train=train, val=val) for train, val in counts],
        "test_count": test_count,
        "skipped": writer.unreadable,
        "checksum": writer.checksum.hexdigest(),
    }


def _size(image_size: int | None, source: Source) -> int | None:
    """The size to resize to: clients with their own pictures must agree on one without seeing each other's."""
    return DEFAULT_SIZE if image_size is None and source.kind == "pictures" else image_size


def _check_unreadable(writer: SplitWriter, name: str, tolerance: int) -> None:
    count = len(writer.unreadable)
    if not count:
        return
    shown = ", ".join(writer.unreadable[:_SHOWN]) + (", ..." if count > _SHOWN else "")
    if count > tolerance:
        raise UserError(
            f"DATASET={name}: {count} of {writer.total} pictures cannot be read: {shown}; "
            f"mend or remove them, or leave them out with --tolerance {count}"
        )
    log.warning(
        "DATASET=%s: left out %d of %d pictures that cannot be read: %s",
        *(printable(name), count, writer.total, printable(shown)),
    )


def _publish(complete: Path, out: Path, manifest: Manifest) -> None:
    """Move what is in `complete` into `out`, replacing what was there; the manifest goes last."""
    with (complete / MANIFEST).open("wb") as file:
        file.write(manifest.model_dump_json(indent=2).encode() + b"\n")
        sync(file)
    (out / MANIFEST).unlink(missing_ok=True)
    for old in [*out.glob("partition-*"), *out.glob("test_*.npy")]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    for new in sorted(complete.iterdir()):
        if new.name != MANIFEST:
            new.rename(out / new.name)
    (complete / MANIFEST).rename(out / MANIFEST)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
