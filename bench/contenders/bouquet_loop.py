"""Bouquet's own model, training and evaluation in a warm process, for the arithmetic row.

The ratios below the table divide by this loop as well, so that a fast loop cannot pass for a cheap federation.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from app.learning.batches import Examples
from app.learning.data.store import Split, Store
from app.learning.model import build_model
from app.learning.training import evaluate, train
from app.process import keep_freed_memory
from app.settings import RunSettings


def loops(
    path: Path,
    partitions: list[int],
    test_part: tuple[int, int],
    name: str,
    device: torch.device,
) -> tuple[nn.Module, Callable[[int, int], int], Callable[[list[int], bool], tuple[float, int]]]:
    """The model ``name``; train(partition, round) -> examples; evaluate(partitions, _) -> (correct, examples)."""
    keep_freed_memory()
    store = Store.open(path)
    settings = RunSettings.from_run_config({"model": name})  # decides the precision on a GPU
    model = build_model(settings, store.manifest.shape, len(store.manifest.classes)).to(device)

    def in_memory(split: Split) -> Examples:
        return Examples(Split(np.array(split.images), np.array(split.labels)), device)

    parts = {p: (in_memory(store.partition(p).train), in_memory(store.partition(p).val)) for p in partitions}
    number, of = test_part
    test = in_memory(Split(store.test.images[number::of], store.test.labels[number::of]))

    def train_on(partition: int, server_round: int) -> int:
        train(
            model,
            parts[partition][0],
            settings,
            seed=1000 * server_round + partition,
            device=device,
            server_round=max(server_round, 1),
        )
        return len(parts[partition][0])

    def evaluate_on(chosen: list[int], _: bool) -> tuple[float, int]:
        for partition in chosen:
            evaluate(model, parts[partition][1], device=device, settings=settings)
        return evaluate(model, test, device=device, settings=settings)[1] * len(test), len(test)

    return model, train_on, evaluate_on
