"""Model, data and training of the quickstart."""

from typing import Any, cast

import torch
from datasets import load_dataset
from flwr_datasets import FederatedDataset
from flwr_datasets.partitioner import IidPartitioner
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.transforms import Compose, Normalize, ToTensor

Loader = DataLoader[dict[str, Tensor]]

transforms = Compose([ToTensor(), Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
fds: FederatedDataset | None = None  # Cache FederatedDataset


class Net(nn.Module):
    """The CNN of PyTorch's 60 minute blitz."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.conv1(x)))
        x = self.pool(functional.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        return cast(Tensor, self.fc3(x))


def build_model(name: str) -> nn.Module:
    """The quickstart's CNN, or a ResNet with the stem for 32x32 pictures."""
    if name == "cnn":
        return Net()
    model = models.get_model(name, weights=None, num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    return cast(nn.Module, model)


def apply_transforms(batch: dict[str, Any]) -> dict[str, Any]:
    """Decode and normalise picture by picture, as every Flower example does."""
    batch["img"] = [transforms(img) for img in batch["img"]]
    return batch


def load_data(partition_id: int, num_partitions: int, dataset: str, batch_size: int) -> tuple[Loader, Loader]:
    """Training and validation loaders of one partition."""
    global fds
    if fds is None:
        partitioner = IidPartitioner(num_partitions=num_partitions)
        fds = FederatedDataset(dataset=dataset, partitioners={"train": partitioner})
    partition = fds.load_partition(partition_id)
    # Divide data on each node: 80% train, 20% test
    partition_train_test = partition.train_test_split(test_size=0.2, seed=42)
    partition_train_test = partition_train_test.with_transform(apply_transforms)
    trainloader = DataLoader(partition_train_test["train"], batch_size=batch_size, shuffle=True)
    testloader = DataLoader(partition_train_test["test"], batch_size=batch_size)
    return trainloader, testloader


def load_centralized_dataset(dataset: str) -> Loader:
    """The test split, for evaluation on the server."""
    test_dataset = load_dataset(dataset, split="test")
    return DataLoader(test_dataset.with_transform(apply_transforms), batch_size=128)


def train(net: nn.Module, trainloader: Loader, epochs: int, lr: float, device: torch.device) -> float:
    """Train the model on the training set; the mean loss."""
    net.to(device)
    criterion = nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for batch in trainloader:
            images = batch["img"].to(device)
            labels = batch["label"].to(device)
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net: nn.Module, testloader: Loader, device: torch.device) -> tuple[float, float]:
    """Validate the model on the test set; loss and accuracy."""
    net.to(device)
    net.eval()
    criterion = nn.CrossEntropyLoss()
    correct, loss, examples = 0, 0.0, 0
    with torch.no_grad():
        for batch in testloader:
            images = batch["img"].to(device)
            labels = batch["label"].to(device)
            outputs = net(images)
            loss += criterion(outputs, labels).item()
            correct += (torch.max(outputs.data, 1)[1] == labels).sum().item()
            examples += len(labels)
    return loss / len(testloader), correct / examples
