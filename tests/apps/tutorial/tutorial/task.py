"""Model, data and training, as a person writes them who follows the tutorial."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
import torchvision.transforms as transforms
from flwr_datasets import FederatedDataset
from torch import nn
from torch.utils.data import DataLoader

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH_SIZE = 32
fds = None  # kept between calls in one process


class Net(nn.Module):
    """Two convolutions and three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def load_datasets(partition_id: int, num_partitions: int):
    """Loaders of one partition: four fifths to train on, one fifth to evaluate on."""
    global fds
    if fds is None:
        fds = FederatedDataset(dataset="uoft-cs/cifar10", partitioners={"train": num_partitions})
    parts = fds.load_partition(partition_id).train_test_split(test_size=0.2, seed=42)
    to_tensor = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
    )

    def apply_transforms(batch):
        batch["img"] = [to_tensor(img) for img in batch["img"]]
        return batch

    parts = parts.with_transform(apply_transforms)
    return (
        DataLoader(parts["train"], batch_size=BATCH_SIZE, shuffle=True),
        DataLoader(parts["test"], batch_size=BATCH_SIZE),
    )


def train(net: nn.Module, loader: DataLoader, epochs: int) -> None:
    """Some epochs with Adam."""
    optimizer = torch.optim.Adam(net.parameters())
    net.to(DEVICE).train()
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(batch["img"].to(DEVICE)), batch["label"].to(DEVICE)).backward()
            optimizer.step()


def test(net: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Mean loss of the batches and accuracy."""
    net.to(DEVICE).eval()
    loss, correct, total = 0.0, 0, 0
    with torch.no_grad():
        for batch in loader:
            images, labels = batch["img"].to(DEVICE), batch["label"].to(DEVICE)
            outputs = net(images)
            loss += F.cross_entropy(outputs, labels).item()
            correct += (outputs.argmax(1) == labels).sum().item()
            total += len(labels)
    return loss / len(loader), correct / total


def get_parameters(net: nn.Module):
    """The model as a list of NumPy arrays."""
    return [value.cpu().numpy() for value in net.state_dict().values()]


def set_parameters(net: nn.Module, parameters) -> None:
    """Load a list of NumPy arrays into the model."""
    pairs = zip(net.state_dict().keys(), parameters, strict=True)
    net.load_state_dict(OrderedDict({name: torch.tensor(value) for name, value in pairs}), strict=True)
