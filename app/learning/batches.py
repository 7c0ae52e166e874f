"""Batches of whole uint8 tensors: shuffled, augmented and normalised where the model trains.

Nothing here runs once per picture: a batch is one gather, and normalising it is three operations on it.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from app.learning.data.store import Split

PAD = 4  # pixels on each side from which `augment` crops


class Examples:
    """A split as tensors: images uint8 [N, C, H, W] and labels int64 [N], on the device if they fit.

    On the CPU the tensors share the store's memory map. On a GPU they take at most half of its free
    memory, so that several clients can share it. Larger data stays in pinned memory on the host.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self.images = torch.from_numpy(split.images)
        self.labels = torch.from_numpy(split.labels)
        self.device = device
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.images.nbytes <= free // 2:
                self.images = self.images.to(device)
                self.labels = self.labels.to(device)
            else:
                self.images = self.images.pin_memory()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 and labels at ``indices`` (int64, on the CPU), on the device."""
        indices = indices.to(self.images.device, non_blocking=True)
        images, labels = self.images.index_select(0, indices), self.labels.index_select(0, indices)
        return images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def slices(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in their order, normalised, ``batch_size`` at a time."""
        for start in range(0, len(self), batch_size):
            images = self.images[start : start + batch_size].to(self.device, non_blocking=True)
            labels = self.labels[start : start + batch_size].to(self.device, non_blocking=True)
            yield normalise(images), labels


def normalise(images: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in -1..1: the tutorial's ToTensor and Normalize(0.5, 0.5), bit for bit."""
    return images.to(torch.float32).div_(255).sub_(0.5).div_(0.5)


def epoch(
    examples: Examples,
    batch_size: int,
    generator: torch.Generator,
    *,
    augmented: bool,
    lone_last: bool = True,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled pass: normalised images [B, C, H, W] and labels [B], on the device.

    Every random number comes from ``generator`` (on the CPU), so a GPU sees the same batches. With
    ``lone_last=False`` a last batch of one example joins the one before it, because BatchNorm needs two.
    """
    order = torch.randperm(len(examples), generator=generator)
    batches = list(torch.split(order, batch_size))
    if not lone_last and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    for indices in batches:
        images, labels = examples.take(indices)
        if augmented:
            images = augment(images, generator)
        yield normalise(images), labels


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop with padding and random flip of a batch uint8 [N, C, H, W].

    ``torchvision.transforms.v2`` crops the whole batch at one place. This function draws a place for each
    picture, and still is a single gather.
    """
    count, channels, height, width = images.shape
    device = images.device
    down, right = torch.randint(0, 2 * PAD + 1, (2, count, 1), generator=generator).to(device)
    flip = (torch.rand(count, 1, generator=generator) < 0.5).to(device)
    rows = down + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = right + torch.where(flip, columns.flip(1), columns)
    padded = F.pad(images, (PAD, PAD, PAD, PAD))
    picture = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]
