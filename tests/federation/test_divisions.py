"""A client whose data is divided otherwise than the server's is left out by name: it would train on others' parts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation_processes import ROOT, Fleet

from app.learning.data.prepare import Request, prepare

pytestmark = pytest.mark.federation


@pytest.fixture
def mixed(tmp_path: Path, small_store: Path) -> Iterator[Fleet]:
    """Three partitions at the server and two clients; the third client is of a federation of four."""
    prepare(Request(str(ROOT / "tests" / "data" / "cifar10"), num_partitions=4), tmp_path / "four")
    with Fleet(tmp_path, small_store, num_clients=3).taken_down() as started:
        started.superlink()
        for number in range(2):
            started.supernode(number)
        started.supernode(2, NUM_CLIENTS="4", BOUQUET_DATA=str(tmp_path / "four"))
        yield started


def test_a_client_of_an_earlier_number_of_clients_is_left_out_and_named(mixed: Fleet, tmp_path: Path) -> None:
    options = "num-server-rounds=1 fraction-evaluate=0.0 round-retries=0 grace=30"
    assert mixed.train(options).wait(120) == 3, mixed.log("train")
    summary = json.loads((tmp_path / "results" / "latest" / "summary.json").read_text())
    (failure,) = summary["failures"]
    assert "holds 4 partitions, iid" in failure["reason"] and "the server 3 partitions" in failure["reason"]
    assert summary["participation"].startswith("2 of 3 clients took part in every round")
