"""A model's weights as arrays, and the one array in which they travel.

Flower gives each array of an ``ArrayRecord`` two objects of its own, and each object its calls: ten arrays
are twenty-one objects in a message of twenty-four. Packed, they are one array, whose bytes are a safetensors
file (no code in it, checked bounds) and which Flower sends in pieces of 5 MiB, each named and hashed once. The
file's ``names`` keep the order, by which Flower's strategies pair arrays.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.constant import SType
from safetensors.numpy import load, save
from torch import Tensor, nn

from app.errors import UserError

NDArray = npt.NDArray[Any]
ARRAYS = "arrays"  # the record's name as Flower's strategies send it
PACKED = "packed"  # ... and as it travels
MODEL, SAFETENSORS = "model", "safetensors"
MAX_ARRAYS = 100_000
LARGEST_HEADER = 16 << 20  # bytes; 100,000 arrays with long names take 13 MiB


def state_tensors(model: nn.Module, exclude: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors that clients share: parameters and floating buffers, in the model's order.

    BatchNorm's integer step counters stay behind: no average, clipping or noise makes sense of them and
    with a momentum set they are not used. So do names that begin with a prefix in ``exclude``.
    """
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not is_personal(name, exclude)
    }


def is_personal(name: str, prefixes: Iterable[str]) -> bool:
    """Whether ``name`` lies under a layer in ``prefixes``: "fc3" holds "fc3.bias" and not "fc30.bias"."""
    return any(name == prefix or name.startswith(prefix.rstrip(".") + ".") for prefix in prefixes)


def check_personal(model: nn.Module, prefixes: Iterable[str]) -> None:
    """Raise UserError for a prefix that no layer of ``model`` has, or when nothing would be left to share."""
    names = list(state_tensors(model))
    for prefix in prefixes:
        if not any(is_personal(name, [prefix]) for name in names):
            layers = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise UserError(
                f"run config: personal-layers: the model has no layer {prefix!r}; it has {layers}"
            )
    if all(is_personal(name, prefixes) for name in names):
        raise UserError(
            "run config: personal-layers names every layer: nothing would be left to learn together"
        )


def get_arrays(model: nn.Module, exclude: Sequence[str] = ()) -> dict[str, NDArray]:
    """Copies of :func:`state_tensors`, in C order."""
    return {
        name: np.array(tensor.detach().cpu().numpy(), order="C", copy=True)
        for name, tensor in state_tensors(model, exclude).items()
    }


def set_arrays(model: nn.Module, arrays: Mapping[str, NDArray], exclude: Sequence[str] = ()) -> None:
    """Copy ``arrays`` into the model; with ``exclude``, those layers keep what they hold.

    Raises:
        ValueError: a name or shape is not the model's, or one is missing; the model is as it was.
    """
    tensors = state_tensors(model, exclude)
    if missing := [name for name in tensors if name not in arrays]:
        raise ValueError(f"no array for {missing[0]!r}")
    if unknown := [name for name in arrays if name not in tensors]:
        raise ValueError(f"the model has no {unknown[0]!r}")
    for name, tensor in tensors.items():
        if tuple(arrays[name].shape) != tuple(tensor.shape):
            raise ValueError(f"{name!r} is {tuple(arrays[name].shape)}, the model has {tuple(tensor.shape)}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(arrays[name]).reshape(tensor.shape)))


def get_list(model: nn.Module, exclude: Sequence[str] = ()) -> list[NDArray]:
    """The arrays without their names, as ``NumPyClient`` passes them."""
    return list(get_arrays(model, exclude).values())


def set_list(model: nn.Module, arrays: Sequence[NDArray], exclude: Sequence[str] = ()) -> None:
    """The opposite of :func:`get_list`. Raises ValueError when number or shapes differ."""
    names = list(state_tensors(model, exclude))
    if len(names) != len(arrays):
        raise ValueError(f"{len(arrays)} arrays for a model of {len(names)}")
    set_arrays(model, dict(zip(names, arrays, strict=True)), exclude)


class NumPyArray(Array):
    """Flower's ``Array``, serialised only when someone asks for its bytes.

    Flower's copies its numbers three times on the way in and twice on the way out, also where sender and receiver
    are one process.
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
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = NumPyArray(np.asarray(array, order="C"))
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


def state_arrays(model: nn.Module, exclude: Sequence[str] = ()) -> ArrayRecord:
    """The model's shared weights as Flower's record."""
    return to_record(get_arrays(model, exclude))


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
        ValueError: the record is not of that form. Whatever a hostile client sends ends here.
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


def count_bytes(arrays: Mapping[str, NDArray]) -> int:
    """Bytes of the bare numbers."""
    return sum(math.prod(array.shape) * array.itemsize for array in arrays.values())
