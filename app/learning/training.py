"""Training and evaluating a model on one client's split."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord
from torch import Tensor, nn

from app.environment import AppEnvironment, read
from app.learning import weights
from app.learning.batches import Examples, epoch
from app.learning.data.store import Split
from app.learning.optimizer import Optimizer, learning_rate
from app.packing import arrays as packing
from app.settings import RunSettings


def choose_device(partition_id: int = 0) -> torch.device:
    """The device that BOUQUET_DEVICE names: ``auto`` (the default), ``cpu``, ``cuda`` or ``cuda:N``.

    ``auto`` and ``cuda`` deal the visible GPUs out round-robin by partition id; ``auto`` without a GPU
    is the CPU. Looking for a GPU touches CUDA: a process that will fork must not call this.

    Raises:
        UserError: an unknown value, or a GPU that is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = read(AppEnvironment).device.choose(count, partition_id)
    return torch.device("cpu") if index is None else torch.device("cuda", index)


def round_seed(seed: int, partition_id: int, server_round: int) -> int:
    """The seed of one client's round: the same in every process, different for every pair."""
    return int(
        np.random.SeedSequence([seed, partition_id, server_round]).generate_state(1, np.uint64)[0] >> 1
    )


def train(
    model: nn.Module,
    split: Split | Examples,
    settings: RunSettings,
    *,
    seed: int,
    device: torch.device,
    server_round: int = 1,
    epochs: int | None = None,
    global_params: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Train ``model`` in place for ``epochs`` (default ``settings.local_epochs``) passes over ``split``.

    With ``global_params`` and strategy fedprox, ``proximal_mu / 2 * |w - w_global|^2`` over the
    parameters named in it joins the loss. ``seed`` alone decides batches, crops and dropout.

    Returns:
        ``train_loss`` and ``train_accuracy``, means over all examples seen while training; the loss is
        the cross-entropy without the proximal term.
    """
    examples = split if isinstance(split, Examples) else Examples(split, device)
    # channels-last also pays on the CPU: pooling is not vectorised for the other layout.
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    optimizer = Optimizer(model, settings, learning_rate(settings, server_round))
    anchors = _anchors(model, settings, global_params)
    generator = torch.Generator().manual_seed(seed)
    lone_last = not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    loss_sum = torch.zeros((), device=device)  # read once, at the end: every .item() waits for a GPU
    correct = torch.zeros((), dtype=torch.int64, device=device)
    seen = 0
    with _seeded_dropout(seed, device):
        for _ in range(settings.local_epochs if epochs is None else epochs):
            for images, labels in epoch(
                examples, settings.batch_size, generator, augmented=settings.augment, lone_last=lone_last
            ):
                with _precision(settings, device):
                    logits = model(images)
                    loss = F.cross_entropy(logits, labels)
                loss.backward()  # type: ignore[no-untyped-call]
                for parameter, anchor in anchors:
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter.detach() - anchor, alpha=settings.proximal_mu)
                optimizer.step()
                loss_sum += loss.detach().float() * len(labels)
                correct += (logits.detach().argmax(1) == labels).sum()
                seen += len(labels)
    return {"train_loss": loss_sum.item() / max(seen, 1), "train_accuracy": correct.item() / max(seen, 1)}


def evaluate(
    model: nn.Module,
    split: Split | Examples,
    *,
    device: torch.device,
    batch_size: int = 0,
    settings: RunSettings | None = None,
) -> tuple[float, float]:
    """Cross-entropy and accuracy of ``model`` on ``split``, means over examples.

    ``batch_size`` 0 takes what suits the device; ``settings`` decide a GPU's precision (else float32). An
    empty split gives (0.0, 0.0): its weight in an average is 0 as well.
    """
    examples = split if isinstance(split, Examples) else Examples(split, device)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval()
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with torch.inference_mode():
        for images, labels in examples.slices(batch_size or _evaluation_batch(examples, device)):
            with _precision(settings, device):
                logits = model(images).float()
            loss_sum += F.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
    return loss_sum.item() / max(len(examples), 1), correct.item() / max(len(examples), 1)


def _evaluation_batch(examples: Examples, device: torch.device) -> int:
    """Pictures per batch: 64 on a CPU; on a GPU 1000 of up to 64x64 pixels, fewer of larger ones."""
    if device.type != "cuda":
        return 64
    height, width = examples.images.shape[-2:]
    return max(16, min(1000, 1000 * 64 * 64 // (height * width)))


def evaluate_arrays(
    model: nn.Module,
    arrays: ArrayRecord,
    split: Split | Examples,
    *,
    device: torch.device,
    exclude: Sequence[str] = (),
    settings: RunSettings | None = None,
) -> tuple[float, float]:
    """Loss and accuracy of ``model`` with the weights in ``arrays``; layers in ``exclude`` stay as they are.

    Raises ValueError when ``arrays`` are of another model.
    """
    weights.set_arrays(model, packing.from_record(arrays), exclude)
    return evaluate(model, split, device=device, settings=settings)


def _anchors(
    model: nn.Module, settings: RunSettings, global_params: Mapping[str, Tensor] | None
) -> list[tuple[nn.Parameter, Tensor]]:
    if global_params is None or settings.strategy != "fedprox" or settings.proximal_mu == 0:
        return []
    return [
        (parameter, global_params[name].detach().to(parameter, copy=True))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name in global_params
    ]


def _precision(settings: RunSettings | None, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 autocast on a GPU that has it. The CNN is too small: casts would cost more than they save."""
    wanted = settings.precision if settings else "float32"
    if wanted == "auto" and settings is not None:
        wanted = "float32" if settings.model == "cnn" else "bfloat16"
    # Older GPUs emulate bfloat16, many times slower than float32.
    if device.type != "cuda" or wanted == "float32" or not torch.cuda.is_bf16_supported(False):
        return contextlib.nullcontext()
    return torch.autocast("cuda", torch.bfloat16)


@contextlib.contextmanager
def _seeded_dropout(seed: int, device: torch.device) -> Any:
    """Seed the global generators, from which dropout draws, for the body; then restore them."""
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
