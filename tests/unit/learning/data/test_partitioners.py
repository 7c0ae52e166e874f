"""Every partitioner divides the data, and settings that cannot work are refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures_on_disk import hub_folder

from app.errors import UserError
from app.learning.data.partitioners import REMEDIES, PartitionerSettings
from app.learning.data.prepare import Request, prepare
from app.learning.data.store import Store


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(hub_folder(tmp_path_factory.mktemp("partitioners"), train=600, labels={"label": 6}))


def pictures(store: Store) -> list[bytes]:
    partitions = [store.partition(i) for i in range(store.manifest.num_partitions)]
    return [
        image.tobytes() for part in partitions for split in (part.train, part.val) for image in split.images
    ]


@pytest.mark.parametrize("name", [n for n in REMEDIES if n != "exponential"])
def test_partitions_are_disjoint_and_together_everything(source: str, tmp_path: Path, name: str) -> None:
    prepare(Request(source, num_partitions=6, partitioner=name), tmp_path / "store")
    found = pictures(Store.open(tmp_path / "store"))
    assert len(set(found)) == len(found) == 600


def sizes(source: str, out: Path, **settings: Any) -> list[int]:
    return [counts.train + counts.val for counts in prepare(Request(source, **settings), out).counts]


def test_sizes_follow_the_partition_id(source: str, tmp_path: Path) -> None:
    assert sizes(source, tmp_path / "a", num_partitions=3, partitioner="iid") == [200, 200, 200]
    assert sizes(source, tmp_path / "b", num_partitions=3, partitioner="linear") == [100, 200, 300]
    square = sizes(source, tmp_path / "c", num_partitions=3, partitioner="square")
    assert square == [42, 171, 387]
    exponential = sizes(source, tmp_path / "d", num_partitions=3, partitioner="exponential")
    assert exponential == [54, 146, 400]


def classes_held(store: Store) -> list[int]:
    return [len(np.unique(store.partition(i).train.labels)) for i in range(store.manifest.num_partitions)]


def test_pathological_gives_each_client_its_number_of_classes(source: str, tmp_path: Path) -> None:
    prepare(
        Request(source, num_partitions=6, partitioner="pathological", classes_per_partition=3), tmp_path / "s"
    )
    assert classes_held(Store.open(tmp_path / "s")) == [3] * 6


def test_one_shard_is_one_class(source: str, tmp_path: Path) -> None:
    prepare(Request(source, num_partitions=6, partitioner="shard", shards_per_partition=1), tmp_path / "s")
    assert classes_held(Store.open(tmp_path / "s")) == [1] * 6


def test_smaller_alpha_is_more_uneven(source: str, tmp_path: Path) -> None:
    even = prepare(Request(source, num_partitions=4, partitioner="dirichlet", alpha=1000.0), tmp_path / "a")
    uneven = prepare(Request(source, num_partitions=4, partitioner="dirichlet", alpha=0.2), tmp_path / "b")
    assert max(c.train for c in even.counts) < 130 < max(c.train for c in uneven.counts)
    assert uneven.partitioner_settings == {"alpha": 0.2}


def test_seed_decides_the_division(source: str, tmp_path: Path) -> None:
    checksums = [
        prepare(
            Request(source, num_partitions=3, partitioner="dirichlet", seed=seed), tmp_path / f"{i}"
        ).checksum
        for i, seed in enumerate((1, 1, 2))
    ]
    assert checksums[0] == checksums[1] != checksums[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "iidd"}, "PARTITIONER=iidd is unknown; use one of: iid, dirichlet, pathological"),
        ({"num_partitions": 0}, "NUM_CLIENTS=0 must be 1 or more"),
        ({"alpha": 0.5}, "alpha belongs to PARTITIONER=dirichlet"),
        ({"name": "dirichlet", "alpha": 0.0}, "alpha=0.0 must be greater than 0"),
        ({"name": "dirichlet", "alpha": float("nan")}, "alpha=nan must be greater than 0"),
        ({"name": "shard", "shards_per_partition": -1}, "shards-per-partition=-1 must be greater than 0"),
        ({"name": "shard", "classes_per_partition": 2}, "belongs to PARTITIONER=pathological"),
        ({"seed": -1}, "seed=-1 must be 0 or more"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PartitionerSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_partitions": 500}, "partition 100 gets 1 examples; lower NUM_CLIENTS"),
        ({"num_partitions": 601}, "lower NUM_CLIENTS"),
        ({"num_partitions": 10, "partitioner": "exponential"}, "lower NUM_CLIENTS or use PARTITIONER=linear"),
        ({"num_partitions": 20, "partitioner": "dirichlet", "alpha": 0.01}, "alpha=0.01.*raise alpha"),
        ({"partitioner": "pathological", "classes_per_partition": 7}, "must be at most 6"),
        ({"partitioner": "shard", "shards_per_partition": 999}, "lower shards-per-partition"),
    ],
)
def test_a_division_that_leaves_a_client_without_data(
    source: str, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        prepare(Request(source, **settings), tmp_path / "store")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "store").exists()
