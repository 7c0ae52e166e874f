"""The arithmetic of one client, as plain PyTorch and nothing else.

This is what every contender has to do: the tutorial's CNN, Adam, batches of 32, one epoch a round.
The pictures are whole float32 tensors in memory, so what is measured here is arithmetic alone. The
arithmetic row and the NVIDIA FLARE clients run this code, which imports neither Flower nor Bouquet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LEARNING_RATE = 0.001
BATCH_SIZE = 32
EVALUATION_BATCH = 250
TUTORIAL_MODEL = "cnn"

State = dict[str, Tensor]


class Net(nn.Module):
    """The tutorial's CNN: 62,006 parameters for (3, 32, 32) pictures of ten classes."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        high, wide = (((side - 4) // 2 - 4) // 2 for side in (height, width))
        self.fc1 = nn.Linear(16 * high * wide, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.conv1(x)))
        x = self.pool(functional.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        return cast(Tensor, self.fc3(x))


def build_model(name: str, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The model `name` for pictures of `shape` (channels, height, width).

    `cnn` is the tutorial's; any other name is a classifier of torchvision. ResNets get the usual stem
    for small pictures (3x3, no pooling), as Bouquet gives them.
    """
    if name == TUTORIAL_MODEL:
        return Net(shape, num_classes)
    from torchvision import models

    model = cast(nn.Module, models.get_model(name, weights=None, num_classes=num_classes))
    if name.startswith("resnet") and shape[1] <= 64:
        model.conv1 = nn.Conv2d(shape[0], 64, 3, 1, 1, bias=False)
        model.maxpool = nn.Identity()
    return model


@dataclass(frozen=True, slots=True)
class Examples:
    """Normalised pictures float32 [N, C, H, W] and labels int64 [N] on one device."""

    images: Tensor
    labels: Tensor

    @classmethod
    def load(cls, directory: Path, part: str, device: torch.device) -> Self:
        """Read `<part>_images.npy` and `<part>_labels.npy` of a prepared store's directory."""
        images = torch.from_numpy(np.load(directory / f"{part}_images.npy")).to(device)
        labels = torch.from_numpy(np.load(directory / f"{part}_labels.npy")).to(device)
        return cls((images.to(torch.float32) / 255 - 0.5) / 0.5, labels)

    def __len__(self) -> int:
        return len(self.labels)


def train_epoch(model: nn.Module, examples: Examples, seed: int) -> float:
    """One local epoch with a fresh Adam, as the tutorial does in each round; the mean loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    order = order.to(examples.labels.device)
    model.train()
    total = torch.zeros((), device=examples.labels.device)
    batches = torch.split(order, BATCH_SIZE)
    for batch in batches:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(examples.images[batch]), examples.labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach()
    return float(total) / len(batches)


@torch.inference_mode()
def evaluate(model: nn.Module, examples: Examples) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over the examples."""
    model.eval()
    loss, correct = 0.0, 0
    for start in range(0, len(examples), EVALUATION_BATCH):
        images = examples.images[start : start + EVALUATION_BATCH]
        labels = examples.labels[start : start + EVALUATION_BATCH]
        output = model(images)
        loss += float(functional.cross_entropy(output, labels, reduction="sum"))
        correct += int((output.argmax(1) == labels).sum())
    return loss / len(examples), correct / len(examples)


def average(updates: list[tuple[Mapping[str, Tensor], int]]) -> State:
    """Federated averaging: the mean of the updates, each weighted by its number of examples."""
    total = sum(count for _, count in updates)
    names = updates[0][0].keys()
    return {
        name: torch.stack([state[name].float() * (count / total) for state, count in updates])
        .sum(0)
        .to(updates[0][0][name].dtype)
        for name in names
    }
