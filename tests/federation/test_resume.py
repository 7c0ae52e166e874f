"""A run whose server is killed goes on from its last checkpoint, and ends in the same bytes as one that nobody disturbed."""

import csv
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from federation_processes import ROOT, Fleet, bouquet, bouquet_until, leftovers
from small_checkout import copy_checkout

from app.fleet.runs.bundle import app_hash

pytestmark = pytest.mark.federation

ROUNDS = 10  # enough to be killed in the midst of them
BASE = f"num-server-rounds={ROUNDS} fraction-evaluate=0.0 keep-checkpoints=20"
EXPERIMENTS = {
    "fedavg": "",
    "fedavgm": "strategy='fedavgm' server-momentum=0.9",
    "fedadam": "strategy='fedadam'",
    "central-adaptive": "privacy='central-adaptive' clipping-norm=5.0 noise-multiplier=0.01",
}


class Federation:
    """A SuperLink and three clients that stay for all runs of this module."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.results = fleet, fleet.folder / "results"

    def train(self, config: str, *options: str) -> tuple[int, str]:
        """Exit status and output of ``bouquet train``."""
        done = bouquet("train", *self._arguments(config), *options, environment=self._home())
        return done.returncode, done.stdout + done.stderr

    def train_until(self, words: str, config: str) -> Any:
        return bouquet_until(words, "train", *self._arguments(config), environment=self._home())

    def server_app(self) -> psutil.Process:
        """The process in which the rounds run."""
        (found,) = self.fleet.serverapps()
        return found

    def kill_server(self, process: Any) -> Path:
        """End ServerApp and ``train`` at once; the folder of the run. The SuperLink takes a minute to notice."""
        self.server_app().kill()
        process.kill()
        process.communicate()
        return self.latest()

    def runs(self) -> set[Path]:
        return {path for path in self.results.glob("2*") if path.is_dir()}

    def latest(self) -> Path:
        return (self.results / "latest").resolve()

    def _arguments(self, config: str) -> list[str]:
        address = f"127.0.0.1:{self.fleet.control_port}"
        return ["--clients", "3", "--control-address", address, "--config", f"{BASE} {config}"]

    def _home(self) -> dict[str, str]:
        return {"FLWR_HOME": str(self.fleet.folder / "train")}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, small_store: Path) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("resume")
    with Fleet(folder, small_store, num_clients=3).taken_down() as fleet:
        fleet.superlink()
        for number in range(3):
            fleet.supernode(number, BOUQUET_LEASES=str(folder / "leases"), BOUQUET_LOCAL_CLIENTS="3")
        yield Federation(fleet)


def summary(run: Path) -> Any:
    return json.loads((run / "summary.json").read_text())


def model(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def assert_each_round_once(run: Path, rounds: int = ROUNDS, clients: int = 3) -> None:
    with (run / "history.csv").open() as file:
        rows = [(row["round"], row["phase"], row["partition_id"]) for row in csv.DictReader(file)]
    expected = [
        (str(number), phase, partition)
        for number in range(1, rounds + 1)
        for phase, partition in [*(("train", str(each)) for each in range(clients)), ("server", "")]
    ]
    assert rows == expected
    assert len(summary(run)["round_s"]) == len(summary(run)["accuracy_per_round"]) == rounds


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_killed_server_app_costs_a_round_at_most_and_no_bit(federation: Federation, name: str) -> None:
    config = EXPERIMENTS[name]
    run = federation.kill_server(federation.train_until("round 2/", config))
    done = max(int(path.name) for path in (run / "checkpoint").iterdir() if path.name.isdigit())
    status, said = federation.train(config)
    assert status == 0, said
    assert f"goes on after round {done}" in said and f"round {ROUNDS}/{ROUNDS}" in said
    assert "finished: 3 of 3 clients took part in every round" in said.splitlines()[-1]
    assert federation.latest() == run and summary(run)["resumed_from"] == [done] and done >= 2
    assert_each_round_once(run)
    # The same run once more from its first checkpoint, undisturbed: with the same key of the privacy noise.
    undisturbed = run.with_name("undisturbed")
    shutil.copytree(run, undisturbed)
    status, said = federation.train(f"{config} resume='undisturbed/checkpoint/1'")
    assert status == 0 and "goes on after round 1 from" in said, said
    assert_each_round_once(undisturbed)
    assert model(undisturbed) == model(run)
    shutil.rmtree(undisturbed)


def test_a_new_run_begins_anew_when_the_last_one_has_ended_or_is_another(federation: Federation) -> None:
    before = federation.runs()
    status, said = federation.train("resume='auto'")
    assert status == 0 and "goes on" not in said, said
    (run,) = federation.runs() - before
    assert summary(run)["resumed_from"] == [] and summary(run)["status"] == "completed"
    status, said = federation.train(f"resume='{run.name}' learning-rate=0.5")
    assert status == 2 and "this is another experiment: learning-rate is 0.5, was 0.001" in said, said


def test_an_upgraded_app_says_what_forbids_to_go_on_and_the_old_one_goes_on(
    federation: Federation, tmp_path: Path
) -> None:
    config = "seed=11"
    run = federation.kill_server(federation.train_until("round 2/", config))
    upgraded = tmp_path / "upgraded"
    copy_checkout(upgraded, ("pyproject.toml", "README.md", "LICENSE"), "")
    with (upgraded / "app" / "client_app.py").open("a") as file:
        file.write("# A newer version.\n")
    other = f"the app's hash is {app_hash(upgraded)[:12]}, was {app_hash(ROOT)[:12]}"
    # It ends with its first round; these clients take any app.
    status, said = federation.train(f"{config} target-accuracy=0.01", "--app", str(upgraded))
    assert status == 0 and f"begins anew: {run} is of another app ({other})" in said, said
    status, said = federation.train(f"{config} resume='{run.name}'", "--app", str(upgraded))
    assert status == 2 and other in said, said
    status, said = federation.train(config)
    assert status == 0 and "goes on after round" in said, said
    assert_each_round_once(run)


def test_a_truncated_checkpoint_is_told_and_the_one_before_it_is_used(federation: Federation) -> None:
    run = federation.kill_server(federation.train_until("round 3/", "seed=7"))
    newest = max((p for p in (run / "checkpoint").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    os.truncate(newest / "model.safetensors", 1000)
    status, said = federation.train("seed=7")
    assert status == 0, said
    assert f"warning: {newest / 'model.safetensors'} is damaged" in said
    assert f"goes on after round {int(newest.name) - 1} from" in said
    assert_each_round_once(run)


def test_up_goes_on_after_all_of_it_was_killed(small_store: Path, tmp_path: Path) -> None:
    """SuperLink, ServerApp, clients and launcher at once, as with a power cut."""
    arguments = ["up", "--data", str(small_store), "--clients", "3", "--results", str(tmp_path / "results")]
    arguments += ["--config", BASE]
    with tempfile.TemporaryDirectory(prefix="bouquet-test-") as temporary:  # what is killed removes no files
        process = bouquet_until("round 2/", *arguments, environment={"TMPDIR": temporary})
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for member in family:
            member.kill()
        process.wait()
        deadline = time.monotonic() + 30
        while leftovers(str(small_store)) and time.monotonic() < deadline:
            time.sleep(0.2)
    done = bouquet(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on after round" in done.stdout
    run = (tmp_path / "results" / "latest").resolve()
    assert_each_round_once(run)
    assert len(list((tmp_path / "results").glob("2*"))) == 1
