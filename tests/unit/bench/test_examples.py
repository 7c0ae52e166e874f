"""What decides in ``bench/examples``: which apps there are, what they lack, and what the table says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from federation_processes import ROOT
from tiny_apps import make_app

from bench import hub
from bench.examples import apps, table
from bench.examples.data_sets import STAND_INS, Shelf
from bench.examples.measure import Ran, Report, Row, _timed
from bench.processes import BenchError

MACHINE = {"processor": "P", "cores": 2, "memory_gb": 8, "gpu": None, "versions": dict.fromkeys(
    ("python", "torch", "flwr", "nvflare", "ray"), "1")}  # fmt: skip


def test_apps_are_found_in_a_folder_and_below_it(tmp_path: Path) -> None:
    for name in ("b", "a"):
        make_app(tmp_path, name)
    (tmp_path / "neither").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pyproject.toml").write_text("[[[")
    assert [each.name for each in apps.find(tmp_path)] == ["a", "b"]
    assert [each.name for each in apps.find(tmp_path / "a")] == ["a"]
    with pytest.raises(BenchError, match="hold no Flower app"):
        apps.find(tmp_path / "neither")
    with pytest.raises(BenchError, match="is no folder"):
        apps.find(tmp_path / "nowhere")


def test_an_app_runs_with_what_is_here_and_its_other_pin_is_said(tmp_path: Path) -> None:
    toml = make_app(tmp_path, "pinned") / "pyproject.toml"
    wanted = 'dependencies = ["flwr[simulation]>=1.13.0", "torch==2.2.1"]'
    toml.write_text(toml.read_text().replace("dependencies = []", wanted))
    (example,) = apps.find(tmp_path / "pinned")
    packages, given_up = apps.surroundings(example)
    assert packages is None, "all of it is here"
    assert len(given_up) == 1 and given_up[0].startswith("torch==2.2.1 (here ")
    copy = apps.copied(example, tmp_path / "copy")
    assert (copy / "pyproject.toml").read_text() == toml.read_text()


def test_a_name_that_is_no_requirement_is_said(tmp_path: Path) -> None:
    toml = make_app(tmp_path, "odd") / "pyproject.toml"
    toml.write_text(toml.read_text().replace("dependencies = []", 'dependencies = ["not a name =="]'))
    (example,) = apps.find(tmp_path / "odd")
    with pytest.raises(BenchError, match=r"dependencies in the app's pyproject.toml"):
        apps.surroundings(example)


def test_every_stand_in_can_be_loaded_by_its_name(tmp_path: Path) -> None:
    program = """
import json, sys
from datasets import load_dataset
for name in json.loads(sys.argv[1]):
    rows = load_dataset(name)
    print(name, len(rows["train"]), len(rows["test"]), ",".join(rows["train"].column_names))
"""
    shelf = Shelf(tmp_path / "shelf")
    with hub.serving(shelf.find) as port:
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps(sorted(STAND_INS))],
            env={**os.environ, **hub.environment(port, tmp_path / "cache"), "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert shelf.find("nobody/knows") is None
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert lines.keys() == STAND_INS.keys()
    assert lines["uoft-cs/cifar10"] == "600 200 img,label"
    assert (shelf.missing, shelf.given) == ({"nobody/knows"}, set(STAND_INS))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["[ROUND 1/2]", "[ROUND 2/2]", "Strategy execution finished in 2.00s"], ""),
        (
            ["[ROUND 1]", "aggregate_fit: received 1 results and 1 failures"],
            "its ServerApp failed, or clients did",
        ),
        (
            [
                "\x1b[92mINFO \x1b[0m: > Received error in reply from node 1: no data",
                "ERROR : Exit Code: 201",
            ],
            "> Received error in reply from node 1: no data",
        ),
    ],
)
def test_a_run_is_as_good_as_its_log_says(lines: list[str], problem: str, tmp_path: Path) -> None:
    """`flwr run` ends with status 0 in each case."""
    ran = _timed(lambda *_arguments: lines, tmp_path, "", 2, tmp_path / "logs", {}, 60)
    assert ran.problem == problem
    assert len(ran.round_s) == max(0, sum("ROUND" in line or "finished" in line for line in lines) - 1)


def test_the_table_says_what_runs_and_why_not(tmp_path: Path) -> None:
    report = Report("examples", 3, 3, MACHINE)
    report.rows = [
        Row(
            "good",
            made_up=["a/b"],
            runs={"bouquet": Ran("", [5.0, 1.0, 1.0]), "stock": Ran("", [12.0, 9.0, 11.0])},
        ),
        Row(
            "bad",
            runs={"bouquet": Ran("up ended with status 1: no | way"), "stock": Ran("", [12.0, 9.0, 11.0])},
        ),
        Row("odd", problem="a requirement"),
    ]
    table.write(report, tmp_path)
    said = (tmp_path / "examples.md").read_text()
    assert (
        "| good | runs | not tried | runs | 5.0 s, 12.0 s | 1.0 s, 10.0 s | 10.0 | made-up data for a/b |"
        in said
    )
    assert "| bad | up ended with status 1: no / way | not tried | runs |" in said
    assert "| odd | a requirement | a requirement |" in said
    assert json.loads((tmp_path / "examples.json").read_text())["rows"][0]["runs"]["bouquet"]["round_s"] == [
        5.0,
        1.0,
        1.0,
    ]
