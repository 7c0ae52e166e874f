"""`bouquet prepare`: read a source once, divide it among the clients, write the data store.

Everything is written under DIR/.preparing and renamed into DIR at the end, the manifest last: DIR
itself may be a mounted volume, which cannot be renamed over.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.learning.hub import FULL
from app.learning.partitioners import PartitionerSettings
from app.learning.pictures import DEFAULT_SIZE, OtherForm, first_form
from app.learning.sources import Loaded, Source, find, load
from app.learning.store import MANIFEST, Counts, Manifest, Store
from app.learning.writing import SplitWriter, encoded, sync

VALIDATION_SHARE = 0.2
"""Share of each partition that the client validates on, as in the tutorial."""

_STAGING = ".preparing"
_LOCK = ".lock"
_ATTEMPTS = 20  # at making a folder that another process may be removing
_SHOWN = 5

log = logging.getLogger(__name__)


def prepare(
    source: str,
    out: Path,
    *,
    num_partitions: int = 10,
    partitioner: str = "iid",
    seed: int = 42,
    alpha: float | None = None,
    classes_per_partition: int | None = None,
    shards_per_partition: int | None = None,
    subset: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    classes: list[str] | None = None,
    tolerance: int = 0,
    force: bool = False,
) -> Manifest:
    """Write the data store `out` from `source` and return its manifest.

    Preparing the same again is a no-op. `image_size`: edge in pixels that every picture is resized to
    (default: as they are where all are alike, else 32). `tolerance`: unreadable pictures that may be
    left out. `force`: replace a store made for another request.

    Raises UserError for everything the caller can mend; `out` is then as it was before.
    """
    settings = PartitionerSettings(
        partitioner, num_partitions, seed, alpha, classes_per_partition, shards_per_partition
    )
    if image_size is not None and not 8 <= image_size <= 1024:
        raise UserError(f"image-size={image_size} must be between 8 and 1024 pixels")
    if tolerance < 0:
        raise UserError(f"tolerance={tolerance} must be 0 or more unreadable pictures")
    if classes is not None and (len(set(classes)) != len(classes) or len(classes) < 2):
        raise UserError("classes must name two or more different classes, separated by commas")
    found = find(source)
    pictures = found.kind == "pictures"
    request = _digest(
        found.identity(),
        seed,
        None if pictures else (settings.name, settings.num_partitions, settings.own()),
        (subset, image_column, label_column, image_size, classes, tolerance),
    )

    # Before anything is written: a prepared store may be mounted read-only.
    existing = _existing(out, request, source, force)
    if existing is not None:
        return existing
    with _locked(out) as created:
        existing = _existing(out, request, source, force)
        if existing is not None:
            return existing
        staging = out / _STAGING
        complete = False
        try:
            _refuse_foreign_files(out)
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            loaded = load(
                found,
                settings,
                scratch=staging / "scratch",
                subset=subset,
                image_column=image_column,
                label_column=label_column,
                classes=classes,
            )
            written = _write(loaded, staging / "store", image_size, found, seed, tolerance)
            manifest = Manifest(
                source=source,
                partitioner="none" if pictures else settings.name,
                partitioner_settings={} if pictures else settings.own(),
                num_partitions=loaded.num_partitions,
                seed=seed,
                classes=loaded.classes,
                image_column=loaded.image_column,
                label_column=loaded.label_column,
                test_from=loaded.test_from,
                request=request,
                **written,
            )
            _publish(staging / "store", out, manifest)
            complete = True
        except OSError as error:
            raise _writing_failed(out, error) from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if not complete and not (out / MANIFEST).exists():
                (out / _LOCK).unlink(missing_ok=True)
                if created:
                    with suppress(OSError):
                        out.rmdir()
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
    """A directory with other files in it is somebody's, not a store."""
    for entry in out.iterdir():
        own = entry.name in (MANIFEST, _LOCK, _STAGING, "lost+found")
        if not own and not entry.name.startswith("partition-") and not entry.match("test_*.npy"):
            raise UserError(f"--out {out} holds other files ({entry.name}); give a new or an empty directory")


def _writing_failed(out: Path, error: OSError) -> UserError:
    if error.errno in FULL:
        return UserError(
            f"--out {out}: the disk is full, or a quota or file size limit is reached, while preparing; "
            "free some space or give a directory on a larger disk"
        )
    reason = error.strerror or " ".join(str(error).split())
    return UserError(f"--out {out} cannot be written: {reason}; give a directory that can be")


def _write(
    loaded: Loaded, target: Path, image_size: int | None, source: Source, seed: int, tolerance: int
) -> dict[str, Any]:
    """Decode and write every split to `target`; the manifest's fields that this settles."""
    form = first_form(encoded(loaded.partition(0)[:_SHOWN]["image"]), _size(image_size, source))
    while True:
        shutil.rmtree(target, ignore_errors=True)
        writer = SplitWriter(target, form, loaded.values)
        try:
            counts = []
            for i in range(loaded.num_partitions):
                split = loaded.partition(i).train_test_split(test_size=VALIDATION_SHARE, seed=seed)
                part = f"partition-{i}"
                counts.append(
                    (writer.add(split["train"], f"{part}/train"), writer.add(split["test"], f"{part}/val"))
                )
            test_count = writer.add(loaded.test, "test") if loaded.test is not None else counts[0][1]
        except OtherForm as other:
            form = other.form
            continue
        break
    _check_unreadable(writer, source.name, tolerance)
    if test_count == 0 or any(0 in pair for pair in counts):
        raise UserError(f"DATASET={source.name}: too few readable pictures; mend them or use other data")
    return {
        "shape": form.shape,
        "counts": [Counts(train=train, val=val) for train, val in counts],
        "test_count": test_count,
        "skipped": writer.unreadable,
        "checksum": writer.checksum.hexdigest(),
    }


def _size(image_size: int | None, source: Source) -> int | None:
    """Clients with own pictures must agree on one size without seeing each other's."""
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
        "DATASET=%s: left out %d of %d pictures that cannot be read: %s", name, count, writer.total, shown
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
