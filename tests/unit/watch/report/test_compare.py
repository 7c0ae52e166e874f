"""Runs side by side: what differs comes first, and runs that differ by their seed alone are one."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import UserError
from app.watch.report.compare import make

from .conftest import Told, client

Write = Callable[..., Path]
CLIENTS = [client(0), client(1)]


def run(accuracy: float, **settings: object) -> Told:
    told = Told(CLIENTS, **settings).start()
    return told.round(1, accuracy=accuracy / 2, loss=None).round(2, accuracy=accuracy).end()


def rows(page: Path, name: str) -> list[list[str]]:
    with (page.with_suffix("") / f"{name}.csv").open() as file:
        return list(csv.reader(file))


def test_settings_that_differ_come_first_and_seeds_are_drawn_as_one(write: Write, tmp_path: Path) -> None:
    folders = [
        write(run(0.6, seed=1), "run-000001"),
        write(run(0.8, seed=2), "run-000002"),
        write(run(0.3, local_epochs=4, submission="x"), "run-000003"),
    ]
    page = make(folders, tmp_path, None)
    assert page == tmp_path / "compare-000001-000002-000003.html"
    assert rows(page, "different")[1:] == [["local-epochs", "1", "1", "4"], ["seed", "1", "2", "42"]]
    html = page.read_text()
    assert html.index("What differs") < html.index("What came of it") < html.index("Round by round")
    assert [row[3] for row in rows(page, "reached")[1:]] == ["0.6", "0.8", "0.3"]
    assert rows(page, "over-seeds")[1:] == [["run-000001 (2 seeds)", "2", "0.7 ± 0.1414", "0.5 ± 0", "2 ± 0"]]
    drawn = rows(page, "accuracy")[1:]
    assert ["run-000001 (2 seeds)", "2", "0.7", "0.6", "0.8", "2"] in drawn
    assert ["run-000003", "2", "0.3", "0.3", "0.3", "1"] in drawn
    assert {row[0] for row in rows(page, "bytes")[1:]} == {"run-000001", "run-000002", "run-000003"}


def test_runs_that_repeat_one_another_differ_in_nothing(write: Write, tmp_path: Path) -> None:
    page = make([write(run(0.5), "a"), write(run(0.5), "b")], tmp_path, tmp_path / "page.html")
    assert "the runs repeat one another" in page.read_text()


def test_runs_without_a_round_and_of_other_apps_can_be_compared(write: Write, tmp_path: Path) -> None:
    empty = Told(CLIENTS).start().end("failed")
    other = Told([]).tell("run_started", flower_run="1", settings={"lr": 1}).tell("phase_started", round=1)
    page = make([write(empty, "empty"), write(other, "other")], tmp_path, None)
    assert "lr" in page.read_text()


@pytest.mark.parametrize("twice", [True, False])
def test_one_run_is_nothing_to_compare(write: Write, tmp_path: Path, twice: bool) -> None:
    folder = write(run(0.5))
    with pytest.raises(UserError, match="needs two different runs or more"):
        make([folder, folder] if twice else [folder], tmp_path, None)
