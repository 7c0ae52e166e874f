"""How the training data is divided among the clients: Flower Datasets' own partitioners, by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.errors import UserError

# One example to train on and one to validate on.
MIN_PARTITION_SIZE = 2

REMEDIES = {
    "iid": "lower NUM_CLIENTS",
    "dirichlet": "raise alpha or lower NUM_CLIENTS",
    "pathological": "raise classes-per-partition or lower NUM_CLIENTS",
    "shard": "lower shards-per-partition or NUM_CLIENTS",
    "linear": "lower NUM_CLIENTS or use PARTITIONER=iid",
    "square": "lower NUM_CLIENTS or use PARTITIONER=linear",
    "exponential": "lower NUM_CLIENTS or use PARTITIONER=linear",
}
"""What to change when a partition comes out empty or too small; the keys are the partitioners."""


@dataclass(frozen=True, slots=True)
class PartitionerSettings:
    """Which partitioner, and the settings of the one that is chosen (None: its default).

    Raises UserError for an unknown name, a setting of another partitioner, or one out of range.
    """

    name: str = "iid"
    num_partitions: int = 10
    seed: int = 42
    alpha: float | None = None
    """`dirichlet`: concentration; the smaller, the more uneven the classes. Default 0.5."""
    classes_per_partition: int | None = None
    """`pathological`: classes that each client holds. Default 2."""
    shards_per_partition: int | None = None
    """`shard`: blocks of label-sorted examples that each client holds. Default 2."""

    def __post_init__(self) -> None:
        if self.name not in REMEDIES:
            raise UserError(f"PARTITIONER={self.name} is unknown; use one of: {', '.join(REMEDIES)}")
        if self.num_partitions < 1:
            raise UserError(f"NUM_CLIENTS={self.num_partitions} must be 1 or more")
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must be 0 or more")
        for setting, owner, value in (
            ("alpha", "dirichlet", self.alpha),
            ("classes-per-partition", "pathological", self.classes_per_partition),
            ("shards-per-partition", "shard", self.shards_per_partition),
        ):
            if value is None:
                continue
            if owner != self.name:
                raise UserError(
                    f"{setting} belongs to PARTITIONER={owner}; leave it out with PARTITIONER={self.name}"
                )
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{setting}={value} must be greater than 0")

    def own(self) -> dict[str, float | int | bool]:
        """The settings of the chosen partitioner, defaults filled in."""
        match self.name:
            case "dirichlet":
                return {"alpha": 0.5 if self.alpha is None else float(self.alpha)}
            case "pathological":
                return {"classes_per_partition": self.classes_per_partition or 2}
            case "shard":
                return {"shards_per_partition": self.shards_per_partition or 2}
        return {}

    def check(self, num_classes: int) -> None:
        """Raise UserError where a setting cannot fit data of `num_classes` classes."""
        wanted = self.own().get("classes_per_partition", 0)
        if wanted > num_classes:
            raise UserError(
                f"classes-per-partition={wanted} must be at most {num_classes}, the classes of this data"
            )

    def build(self, label_column: str) -> Any:
        """The `flwr_datasets.partitioner.Partitioner` these settings describe."""
        from flwr_datasets import partitioner as flower

        count, seed, own = self.num_partitions, self.seed, self.own()
        builders: dict[str, Callable[[], Any]] = {
            "iid": lambda: flower.IidPartitioner(count),
            "linear": lambda: flower.LinearPartitioner(count),
            "square": lambda: flower.SquarePartitioner(count),
            "exponential": lambda: flower.ExponentialPartitioner(count),
            "dirichlet": lambda: flower.DirichletPartitioner(
                count,
                label_column,
                alpha=own["alpha"],
                min_partition_size=10,
                seed=seed,
            ),
            # "first-deterministic" is the way of the original paper. It leaves no class out unless it must.
            "pathological": lambda: flower.PathologicalPartitioner(
                count,
                label_column,
                num_classes_per_partition=own["classes_per_partition"],
                class_assignment_mode="first-deterministic",
                seed=seed,
            ),
            "shard": lambda: flower.ShardPartitioner(
                count, label_column, num_shards_per_partition=own["shards_per_partition"], seed=seed
            ),
        }
        return builders[self.name]()

    def failed(self, reason: str) -> UserError:
        """The error for a division that does not work out on this data."""
        settings = "".join(f", {key.replace('_', '-')}={value}" for key, value in self.own().items())
        return UserError(
            f"PARTITIONER={self.name} (NUM_CLIENTS={self.num_partitions}{settings}) does not fit this data: "
            f"{reason}; {REMEDIES[self.name]}"
        )
