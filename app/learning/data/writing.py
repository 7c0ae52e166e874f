"""Writing splits as the arrays of a data store."""

import hashlib
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from app.learning.data.pictures import Encoded, ImageFormat, decode

_CHUNK = 2048
_CHUNK_BYTES = 128 << 20
"""Decoded pictures, and their bytes, that are in memory at a time."""


class SplitWriter:
    """Writes splits as arrays and keeps count of what could not be read."""

    def __init__(
        self,
        target: Path,
        image_format: ImageFormat,
        values: npt.NDArray[Any] | None,
        roots: tuple[str, ...] = (),
    ) -> None:
        self.unreadable: list[str] = []
        self.total = 0
        self.checksum = hashlib.sha256()
        self._target = target
        self._image_format = image_format
        self._values = values
        self._roots = roots
        self._chunk = max(1, min(_CHUNK, _CHUNK_BYTES // math.prod(image_format.shape)))
        self._workers = len(os.sched_getaffinity(0))

    def add(self, rows: Any, name: str) -> int:
        """Write `rows` (`datasets.Dataset`) to <name>_images.npy and <name>_labels.npy; their number."""
        images_file = self._target / f"{name}_images.npy"
        images_file.parent.mkdir(parents=True, exist_ok=True)
        rows = rows.with_format("arrow")
        labels, written = [], 0
        with images_file.open("wb") as file:
            _write_header(file, np.dtype(np.uint8), (len(rows), *self._image_format.shape))
            for start in range(0, len(rows), self._chunk):
                table = rows[start : start + self._chunk]
                pictures = encoded(table["image"], self._roots)
                images, bad = decode(pictures, self._image_format, self._workers)
                self.unreadable += [pictures[i].path or f"{name} {start + i}" for i in bad]
                kept = np.delete(np.arange(len(pictures)), bad)
                pixels = np.ascontiguousarray(images[kept] if bad else images)
                file.write(pixels.data)
                self.checksum.update(pixels.data)
                labels.append(self._labels(table["label"])[kept])
                written += len(kept)
            # The header keeps its length: numpy leaves room in it for the first axis to grow.
            file.seek(0)
            _write_header(file, np.dtype(np.uint8), (written, *self._image_format.shape))
            sync(file)
        numbers = np.concatenate(labels) if labels else np.empty(0, np.int64)
        with (self._target / f"{name}_labels.npy").open("wb") as file:
            _write_header(file, numbers.dtype, numbers.shape)
            file.write(numbers.data)
            sync(file)
        self.checksum.update(numbers.data)
        self.total += len(rows)
        return written

    def _labels(self, column: Any) -> npt.NDArray[np.int64]:
        raw = column.to_numpy()
        numbers = (
            raw if self._values is None else np.searchsorted(self._values, raw.astype(self._values.dtype))
        )
        return np.ascontiguousarray(numbers, np.int64)


def encoded(images: Any, roots: tuple[str, ...]) -> list[Encoded]:
    """The pictures of an Arrow column, or a list, of {bytes, path} or nothing; paths below `roots` are followed."""
    rows = images if isinstance(images, list) else images.to_pylist()
    return [Encoded(row["bytes"], row["path"], roots) if row else Encoded(None, None) for row in rows]


def _write_header(file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
