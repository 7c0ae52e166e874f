"""A model in a form that other programs load, written only where it gives what PyTorch gives.

Both forms take pictures as float32 [N, C, H, W], x / 127.5 - 1 of each byte x, and give logits [N, classes]. The classes and
this sentence stand in the file: the metadata of ONNX, ``bouquet.json`` of TorchScript.
"""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from app.errors import UserError
from app.files import write_atomically
from app.learning.batches import normalise
from app.learning.data.store import Images
from app.learning.model import MaxPool2x2
from app.models.load import Trained

ONNX, TORCHSCRIPT = "onnx", "torchscript"
SUFFIXES = {ONNX: ".onnx", TORCHSCRIPT: ".pt"}
TOLERANCE = 1e-4
PICTURES = 64  # that the check compares
EXTRA = "bouquet.json"
INPUT, OUTPUT = "pictures", "logits"


class Exported(NamedTuple):
    """A file that was written, and the largest difference of a logit from PyTorch's."""

    file: Path
    difference: float


def export(trained: Trained, form: str, file: Path, pictures: Images | None = None) -> Exported:
    """Write the model as ``form``, ``onnx`` or ``torchscript``.

    Args:
        trained: the model.
        form: how it is written.
        file: where to.
        pictures: uint8 [N, C, H, W] for the check; None for random ones.

    Raises:
        UserError: what the form needs is not installed, the model has no such form, the file cannot be written, or the
            result differs by more than 1e-4: then there is no file.
    """
    model = _plain(trained.model)
    batch = _batch(trained, pictures)
    make = _onnx if form == ONNX else _torchscript
    with torch.no_grad():
        wanted = model(batch)
        content, given = make(model, batch, _described(trained))
    difference = float((given - wanted).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"--format {form}: the model gives numbers that differ from PyTorch's by {difference:.3g}, more than "
            f"{TOLERANCE:g}; no file is written; give the other format"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    except OSError as error:
        raise UserError(f"--out {file} cannot be written: {error.strerror}; give another file") from None
    return Exported(file, difference)


def _plain(model: nn.Module) -> nn.Module:
    """A copy with PyTorch's own layers only."""
    model = copy.deepcopy(model).to("cpu").eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, MaxPool2x2):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.MaxPool2d(2))
    return model


def _batch(trained: Trained, pictures: Images | None) -> Tensor:
    if pictures is not None and len(pictures):
        return normalise(torch.from_numpy(pictures[:PICTURES].copy()))
    drawn = torch.Generator().manual_seed(0)
    return torch.rand(PICTURES, *trained.shape, generator=drawn) * 2 - 1


def _described(trained: Trained) -> dict[str, str]:
    return {
        "classes": json.dumps(trained.classes),
        "input": "float32 [N, C, H, W], each byte x of a picture as x / 127.5 - 1",
        "shape": json.dumps(list(trained.shape)),
        "model": trained.settings.model,
    }


def _torchscript(model: nn.Module, batch: Tensor, described: dict[str, str]) -> tuple[bytes, Tensor]:
    content = io.BytesIO()
    with _quietly(), _no_form(TORCHSCRIPT):
        traced = torch.jit.trace(model, batch[:2])  # type: ignore[no-untyped-call]
        torch.jit.save(traced, content, {EXTRA: json.dumps(described)})
        content.seek(0)
        given: Tensor = torch.jit.load(content)(batch)  # type: ignore[no-untyped-call]
    return content.getvalue(), given


def _onnx(model: nn.Module, batch: Tensor, described: dict[str, str]) -> tuple[bytes, Tensor]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise UserError(
            f"--format onnx: {error.name} is not installed; run pip install 'bouquet[export]', or give --format torchscript"
        ) from None
    content = io.BytesIO()
    with _quietly(), _no_form(ONNX):
        program: Any = torch.onnx.export(
            model,
            (batch[:2],),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
        written = program.model_proto
        for key, value in described.items():
            onnx.helper.set_model_props(written, {**_props(written), key: value})
        content.write(written.SerializeToString())
        session = onnxruntime.InferenceSession(content.getvalue(), providers=["CPUExecutionProvider"])
        (given,) = session.run([OUTPUT], {INPUT: batch.numpy()})
    return content.getvalue(), torch.from_numpy(given)


def _props(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@contextlib.contextmanager
def _no_form(form: str) -> Iterator[None]:
    """Say in one line that a model cannot be written so: the writers raise many kinds of errors."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"--format {form}: the model cannot be written so: {reason}; give the other format"
        ) from None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the writers' warnings, which are about names in PyTorch."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
