"""A model's weights as NumPy arrays, under their state-dict names and in the model's order."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from app.errors import UserError
from app.packing.arrays import NDArray, to_record


def state_tensors(model: nn.Module, exclude: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors that clients share: parameters and floating buffers, in the model's order.

    BatchNorm's integer step counters are not shared: averaging, clipping and noise make no sense for them, and
    BatchNorm with a momentum does not use them. Names under a prefix in ``exclude`` are not shared either.
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


def state_arrays(model: nn.Module, exclude: Sequence[str] = ()) -> ArrayRecord:
    """The model's shared weights as Flower's record."""
    return to_record(get_arrays(model, exclude))


def count_bytes(arrays: Mapping[str, NDArray]) -> int:
    """Bytes of the bare numbers."""
    return sum(math.prod(array.shape) * array.itemsize for array in arrays.values())
