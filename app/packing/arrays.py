"""The one array in which a model's arrays travel.

Flower makes two objects of each array of an ``ArrayRecord``, and each object costs calls of its own. Ten arrays are
twenty-one of the twenty-four objects in a message. Packed, they are one array. Its bytes are a safetensors file, which
holds no code and has checked bounds. Flower sends it in pieces of 5 MiB, and names and hashes each piece once. The
file's ``names`` keep the order, because Flower's strategies pair arrays by it.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.constant import SType
from safetensors.numpy import load, save

from app.packing import flower

NDArray = npt.NDArray[Any]
ARRAYS = "arrays"  # the record's name as Flower's strategies send it
PACKED = "packed"  # ... and as it travels
MODEL, SAFETENSORS = "model", "safetensors"
MAX_ARRAYS = 100_000
LARGEST_HEADER = 16 << 20  # bytes; 100,000 arrays with long names take 13 MiB


class NumPyArray(Array):
    """Flower's ``Array``, serialised only when someone asks for its bytes.

    Flower's ``Array`` copies its numbers three times when it is made and twice when it is read, also within one
    process.
    """

    __qualname__ = Array.__qualname__  # the type's name in the message

    def __init__(self, ndarray: NDArray) -> None:
        self.ndarray = ndarray
        self.dtype, self.shape, self.stype = str(ndarray.dtype), ndarray.shape, SType.NUMPY

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The array as a ``.npy`` file."""
        return Array.from_numpy_ndarray(self.ndarray).data

    def numpy(self) -> NDArray:
        """A copy, as Flower's ``Array`` gives one."""
        return self.ndarray.copy()

    def __reduce__(self) -> tuple[type[Array], tuple[NDArray]]:
        return Array, (self.ndarray,)  # pickle looks a class up by its name


def to_record(arrays: Mapping[str, NDArray]) -> ArrayRecord:
    """Flower's record of ``arrays``, which it shares."""
    kind = NumPyArray if flower.available(flower.ARRAYS.name) else Array
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = kind(np.asarray(array, order="C"))
    return record


def from_record(record: ArrayRecord) -> dict[str, NDArray]:
    """The arrays of Flower's record; those of :func:`to_record` are shared. Raises ValueError when one cannot be read."""
    try:
        return {
            name: array.ndarray if isinstance(array, NumPyArray) else array.numpy()
            for name, array in record.items()
        }
    except (TypeError, EOFError, OSError) as error:
        raise ValueError(str(error)) from None


def pack(arrays: Mapping[str, NDArray], dtype: str = "float32") -> ArrayRecord:
    """One array of all ``arrays``; floating ones as ``dtype``, ``float32`` or ``float16``."""
    ready = {
        name: np.asarray(array, dtype=dtype if np.issubdtype(array.dtype, np.floating) else None, order="C")
        for name, array in arrays.items()
    }
    content = save(ready, metadata={"names": json.dumps(list(ready))})
    return ArrayRecord({MODEL: Array("uint8", (len(content),), SAFETENSORS, content)})


def unpack(record: ArrayRecord) -> dict[str, NDArray]:
    """The arrays of :func:`pack`, in their order; half precision comes back as float32.

    Raises:
        ValueError: the record is not of that form. A hostile client's bytes end here.
    """
    if list(record) != [MODEL] or record[MODEL].stype != SAFETENSORS:
        raise ValueError(f"a packed model is one array {MODEL!r} of type {SAFETENSORS!r}")
    content = record[MODEL].data
    length = int.from_bytes(content[:8], "little")
    if length > LARGEST_HEADER:  # parsing takes twenty times as much memory
        raise ValueError(f"a header of {length} bytes is longer than any model needs")
    try:
        arrays: dict[str, NDArray] = load(content)
        header = json.loads(content[8 : 8 + length])
        names = json.loads(header["__metadata__"]["names"])
    except Exception as error:  # the Rust parser's own errors, and numpy's for types it lacks
        raise ValueError(f"not a safetensors file with names: {error}") from None
    if (
        not isinstance(names, list)
        or len(names) > MAX_ARRAYS
        or not all(isinstance(name, str) for name in names)
        or sorted(names) != sorted(arrays)
    ):
        raise ValueError("'names' does not list the arrays of the file")
    return {
        name: arrays[name].astype(np.float32) if arrays[name].dtype == np.float16 else arrays[name]
        for name in names
    }


def packed(content: RecordDict, dtype: str = "float32") -> RecordDict:
    """``content`` with its model packed."""
    return replaced(content, ARRAYS, PACKED, pack(from_record(content.array_records[ARRAYS]), dtype))


def unpacked(content: RecordDict) -> RecordDict:
    """``content`` with its model unpacked. Raises ValueError on anything malformed."""
    return replaced(content, PACKED, ARRAYS, to_record(unpack(content.array_records[PACKED])))


def replaced(content: RecordDict, old: str, new: str, record: ArrayRecord) -> RecordDict:
    """``content`` with ``record`` under the name ``new`` in the place of what was called ``old``."""
    return RecordDict({new: record, **{name: other for name, other in content.items() if name != old}})
