"""What a FLARE client does with a message. Its tensors stay in memory for the whole job."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from bench.workload import Examples, State, build_model, evaluate, train_epoch

STORE = "BOUQUET_BENCH_STORE"
MODEL = "BOUQUET_BENCH_MODEL"
EVALUATING = "BOUQUET_BENCH_EVALUATING"
CLIENTS = "BOUQUET_BENCH_CLIENTS"
SHAPE = "BOUQUET_BENCH_SHAPE"
"""channels,height,width,classes"""

Params = Mapping[str, np.ndarray | torch.Tensor]


class LocalWork:
    """One client's data and model, loaded once."""

    def __init__(self, site: str) -> None:
        self.partition = int(site.rsplit("-", 1)[1]) - 1
        device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(1)
        directory = Path(os.environ[STORE]) / f"partition-{self.partition}"
        self.device = device
        self.train = Examples.load(directory, "train", device)
        self.val = Examples.load(directory, "val", device)
        self.model = JobModel().to(device)

    def round(self, params: Params, number: int) -> tuple[State, dict[str, float], int]:
        """Evaluate the received model where this client is sampled for it, then train an epoch on it.

        FLARE's examples evaluate what they receive before they train: this needs no message of its own.
        """
        load(self.model, params)
        metrics = {}
        clients, evaluating = int(os.environ[CLIENTS]), int(os.environ[EVALUATING])
        if (self.partition + number * evaluating) % clients < evaluating:
            loss, accuracy = evaluate(self.model, self.val)
            metrics = {"loss": loss, "accuracy": accuracy}
        train_epoch(self.model, self.train, seed=1000 * number + self.partition)
        return (
            {name: value.cpu() for name, value in self.model.state_dict().items()},
            metrics,
            len(self.train),
        )


class JobModel(torch.nn.Module):
    """The job's model. FLARE's server makes it by the name of its class, so it takes no arguments."""

    def __init__(self) -> None:
        super().__init__()
        channels, height, width, classes = (int(part) for part in os.environ[SHAPE].split(","))
        self.net = build_model(os.environ[MODEL], (channels, height, width), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes] of pictures [N, C, H, W]."""
        logits: torch.Tensor = self.net(x)
        return logits


def load(model: torch.nn.Module, params: Params) -> None:
    """Put a message's arrays into the model."""
    model.load_state_dict({name: torch.as_tensor(value) for name, value in params.items()})
