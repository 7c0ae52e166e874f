"""``bouquet tour``: every step works on the functions that are deployed, and names files and commands that exist."""

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from app.tutorial.tour import ALONE, BY_HAND, Tour, context_of, data_in, weighted_average


@pytest.fixture
def tour(tmp_path: Path) -> Tour:
    return Tour(tmp_path / "tour", Console(file=io.StringIO(), width=120))


def _shown(tour: Tour) -> str:
    assert isinstance(tour.console.file, io.StringIO)
    return tour.console.file.getvalue()


def test_the_steps_before_the_federation_work_on_the_embedded_data(tour: Tour) -> None:
    store = tour.prepare()
    with data_in(store.path):
        tour.see_the_data(store)
        tour.train_alone(store)
        tour.exchange_parameters()
        tour.be_a_client()
        tour.average_by_hand(store)
    shown = _shown(tour)
    assert "10 arrays, 62,006 numbers" in shown and "same arrays back: True" in shown
    assert 0.5 < tour.accuracy[ALONE] <= 1 and 0.5 < tour.accuracy[BY_HAND] <= 1
    pictures = [Path(name) for name in re.findall(r"saved (\S+\.png)", shown)]
    assert len(pictures) == 2
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_fit_makes_the_client_better(tour: Tour) -> None:
    with data_in(tour.prepare().path):
        tour.be_a_client()
    losses = [float(loss) for loss in re.findall(r"evaluate \w+ fit: loss ([\d.]+)", _shown(tour))]
    assert len(losses) == 2 and losses[1] < losses[0]


def test_the_average_by_hand_is_weighted_by_examples() -> None:
    average = weighted_average([([np.zeros(3), np.ones((2, 2))], 1), ([np.full(3, 4.0), np.ones((2, 2))], 3)])
    assert average[0] == pytest.approx([3.0] * 3) and average[1] == pytest.approx(np.ones((2, 2)))


def test_the_environment_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with data_in(tmp_path):
        assert os.environ["BOUQUET_DATA"] == str(tmp_path)
    assert "BOUQUET_DATA" not in os.environ
    monkeypatch.setenv("BOUQUET_DATA", "mine")
    with pytest.raises(KeyError), data_in(tmp_path):
        raise KeyError
    assert os.environ["BOUQUET_DATA"] == "mine"
    assert context_of(2).node_config == {"partition-id": 2, "num-partitions": 3}
