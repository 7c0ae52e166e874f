"""A model's weights as arrays, and the one record in which they travel.

Flower gives each array of an ``ArrayRecord`` two objects of its own, and each object its calls: ten arrays
are twenty-one objects in a message of twenty-four. Packed, they are one: a ``ConfigRecord`` whose bytes are
a safetensors file (no code in it, checked bounds) and whose ``names`` keep the order, by which Flower's
strategies pair arrays.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from safetensors.numpy import load, save
from torch import Tensor, nn

from app.errors import UserError

NDArray = npt.NDArray[Any]
ARRAYS = "arrays"  # the record's name as Flower's strategies send it
PACKED = "packed"  # ... and as it travels
MAX_ARRAYS = 100_000


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


def to_record(arrays: Mapping[str, NDArray]) -> ArrayRecord:
    """Flower's record of ``arrays``."""
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})


def from_record(record: ArrayRecord) -> dict[str, NDArray]:
    """The arrays of Flower's record. Raises ValueError when one cannot be read."""
    try:
        return {name: array.numpy() for name, array in record.items()}
    except (TypeError, EOFError, OSError) as error:
        raise ValueError(str(error)) from None


def state_arrays(model: nn.Module, exclude: Sequence[str] = ()) -> ArrayRecord:
    """The model's shared weights as Flower's record."""
    return to_record(get_arrays(model, exclude))


def pack(arrays: Mapping[str, NDArray], dtype: str = "float32") -> ConfigRecord:
    """One record of all ``arrays``; floating ones as ``dtype``, ``float32`` or ``float16``."""
    ready = {
        name: np.asarray(array, dtype=dtype if np.issubdtype(array.dtype, np.floating) else None, order="C")
        for name, array in arrays.items()
    }
    return ConfigRecord({"safetensors": save(ready), "names": list(ready)})


def unpack(record: ConfigRecord) -> dict[str, NDArray]:
    """The arrays of :func:`pack`, in their order; half precision comes back as float32.

    Raises:
        ValueError: the record is not of that form. Whatever a hostile client sends ends here.
    """
    content, names = record.get("safetensors"), record.get("names")
    if not isinstance(content, bytes) or not isinstance(names, list) or len(names) > MAX_ARRAYS:
        raise ValueError("a packed model has bytes 'safetensors' and a list 'names'")
    try:
        arrays: dict[str, NDArray] = load(content)
    except Exception as error:  # the Rust parser's own errors, and numpy's for types it lacks
        raise ValueError(f"not a safetensors file: {error}") from None
    if len(names) != len(arrays) or set(names) != set(arrays):
        raise ValueError("'names' does not list the arrays of 'safetensors'")
    return {
        str(name): arrays[str(name)].astype(np.float32)
        if arrays[str(name)].dtype == np.float16
        else arrays[str(name)]
        for name in names
    }


def pack_arrays(arrays: ArrayRecord, dtype: str = "float32") -> ConfigRecord:
    """:func:`pack` for Flower's record."""
    return pack(from_record(arrays), dtype)


def unpack_arrays(record: ConfigRecord) -> ArrayRecord:
    """:func:`unpack` into Flower's record. Raises ValueError on anything malformed."""
    return to_record(unpack(record))


def count_bytes(arrays: Mapping[str, NDArray]) -> int:
    """Bytes of the bare numbers."""
    return sum(math.prod(array.shape) * array.itemsize for array in arrays.values())
