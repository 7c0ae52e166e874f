"""One organisation alone: better after every epoch or so, the same for the same seed, on one partition or all."""

import pytest
import torch

from app.errors import UserError
from app.learning.data.prepare import Request, prepare
from app.learning.data.store import Store
from app.settings import RunSettings
from app.tutorial.centralized import train_alone


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("alone") / "store"
    prepare(Request("digits", num_partitions=4), path)
    return Store.open(path)


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUQUET_DEVICE", "cpu")
    torch.set_num_threads(1)


def test_it_says_how_well_after_every_epoch_and_on_the_test_split(store: Store) -> None:
    lines: list[str] = []
    result = train_alone(store, RunSettings(), partition_id=1, epochs=6, echo=lines.append)
    assert len(result.epochs) == 6 and len(lines) == 8
    assert result.epochs[-1][0] < result.epochs[0][0] and result.test[1] > 0.3
    assert (
        f"accuracy {result.epochs[-1][1]:.4f}" in lines[-2] and f"accuracy {result.test[1]:.4f}" in lines[-1]
    )
    again = train_alone(store, RunSettings(), partition_id=1, epochs=6, echo=lines.append)
    assert again == result
    assert train_alone(store, RunSettings(seed=1), partition_id=1, epochs=6, echo=lines.append) != result


def test_all_data_is_the_upper_bound(store: Store) -> None:
    lines: list[str] = []
    alone = train_alone(store, RunSettings(), epochs=4, echo=lines.append)
    everything = train_alone(store, RunSettings(), epochs=4, all_data=True, echo=lines.append)
    total = sum(counts.train for counts in store.manifest.counts)
    assert f"{total:,} pictures to train on" in "\n".join(lines)
    assert everything.test[1] > alone.test[1]


def test_a_partition_that_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(UserError, match="partition-id 4 is out of range"):
        train_alone(store, RunSettings(), partition_id=4, echo=lambda line: None)
    with pytest.raises(UserError, match="epochs"):
        train_alone(store, RunSettings(), epochs=0, echo=lambda line: None)
