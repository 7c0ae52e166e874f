"""Step 1 of the tutorial: one organisation alone, without any federation.

bouquet centralized --partition-id 0 --epochs 5     what a client reaches with its own data
bouquet centralized --all-data                      with everybody's data in one place: the upper bound
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from app.errors import UserError
from app.learning.batches import Examples
from app.learning.data.store import Partition, Split, Store
from app.learning.model import build_model, count_parameters
from app.learning.training import choose_device, evaluate, round_seed, train
from app.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Alone:
    """Losses (cross-entropy) and accuracies, means over examples: after each epoch on the validation split,
    and at the end on the test split."""

    epochs: list[tuple[float, float]] = field(default_factory=list)
    test: tuple[float, float] = (0.0, 0.0)


def train_alone(
    store: Store,
    settings: RunSettings,
    *,
    partition_id: int = 0,
    epochs: int = 5,
    all_data: bool = False,
    echo: Callable[[str], None] = print,
) -> Alone:
    """Train on one partition, or with ``all_data`` on all of them, and say how well after every epoch.

    Every epoch begins with a fresh optimizer, as in the tutorial; ``lr-schedule`` counts epochs as rounds.

    Raises:
        UserError: no such partition, or settings that the data does not fit.
    """
    if epochs < 1:
        raise UserError(f"epochs={epochs} must be at least 1")
    manifest = store.manifest
    settings = settings.model_copy(update={"num_server_rounds": epochs})
    device = choose_device(partition_id)
    partition = _everything(store) if all_data else store.partition_for(partition_id)
    training, validation = Examples(partition.train, device), Examples(partition.val, device)
    model = build_model(settings, manifest.shape, len(manifest.classes))
    echo(
        f"{settings.model} with {count_parameters(model):,} parameters on {device}, "
        f"{'all data' if all_data else f'partition {partition_id}'} of {manifest.source}: "
        f"{len(training):,} pictures to train on, {len(validation):,} to validate on"
    )
    result = Alone()
    for epoch in range(1, epochs + 1):
        seed = round_seed(settings.seed, partition_id, epoch)
        train(model, training, settings, seed=seed, device=device, server_round=epoch, epochs=1)
        loss, accuracy = evaluate(model, validation, device=device, settings=settings)
        result.epochs.append((loss, accuracy))
        echo(f"epoch {epoch}/{epochs}  validation loss {loss:.4f}  accuracy {accuracy:.4f}")
    loss, accuracy = evaluate(model, store.test, device=device, settings=settings)
    echo(f"test set  loss {loss:.4f}  accuracy {accuracy:.4f}")
    return Alone(result.epochs, (loss, accuracy))


def _everything(store: Store) -> Partition:
    """All partitions as one, in memory."""
    partitions = [store.partition(i) for i in range(store.manifest.num_partitions)]
    return Partition(_joined([p.train for p in partitions]), _joined([p.val for p in partitions]))


def _joined(splits: list[Split]) -> Split:
    return Split(
        np.concatenate([split.images for split in splits]), np.concatenate([split.labels for split in splits])
    )
