"""A run outlives each part of its server: at most a round of work is lost, none counts twice, and not a bit differs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_federation import Federation
from faulty_run import FaultyRun
from federation_processes import until

pytestmark = pytest.mark.federation

# Every client in every round: one that misses its round would change the model.
CONFIG = "local-epochs=1 fraction-evaluate=0.0 keep-checkpoints=30 strict=true"
FEW, MANY = "num-server-rounds=7", "num-server-rounds=18"
OUTAGE_S = 120 if os.environ.get("BOUQUET_FAULTS") == "long" else 12


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, small_store: Path) -> Iterator[Federation]:
    """Three clients that outlive their servers."""
    folder = tmp_path_factory.mktemp("servers")
    with Federation(folder, small_store, num_clients=3).taken_down() as started:
        started.make_identities()
        started.start_all()
        yield started


def assert_same_as_undisturbed(run: FaultyRun) -> None:
    """All clients took part in every round, and the same run without a fault ends in the same bytes."""
    summary = run.end(0)
    assert (
        summary["participation"] == "3 of 3 clients took part in every round"
        and summary["status"] == "completed"
    )
    # From the first checkpoint, because each run has a key of its own for its privacy noise.
    copy = run.keep_a_copy("undisturbed")
    undisturbed = run.federation.train(f"{run.config} resume='{copy}/checkpoint/1'")
    assert undisturbed.wait(240) == 0, run.logs()
    again = run.folder.with_name(copy)
    assert run.federation.rounds(again) == run.federation.rounds(run.folder)
    assert (again / "model.safetensors").read_bytes() == (run.folder / "model.safetensors").read_bytes()
    shutil.rmtree(again)


def test_the_serverapp_the_superlink_and_the_command_are_killed_in_training(federation: Federation) -> None:
    run = FaultyRun(federation, f"{CONFIG} {MANY}")
    run.wait_for_round(2)
    run.inject("SIGKILL of the ServerApp", lambda: federation.serverapp().kill())
    run.wait_for_more_rounds()

    run.wait_for_phase("train")
    run.inject("SIGKILL of the SuperLink", lambda: federation.kill("superlink"))
    federation.superlink()
    run.wait_for_more_rounds()

    run.inject("SIGKILL of `train`", lambda: federation.kill("train"))
    run.begin()
    federation.wait_for("train", "this run is under way already")
    run.wait_for_more_rounds()

    run.inject(f"SuperLink down for {OUTAGE_S} s", lambda: federation.kill("superlink"))
    federation.outage(OUTAGE_S)
    federation.superlink()
    assert_same_as_undisturbed(run)
    assert [len(run.events(name)) for name in ("run_started", "run_resumed")] == [4, 3], "none for `train`"


def test_the_superlink_is_killed_in_aggregation(federation: Federation) -> None:
    run = FaultyRun(federation, f"{CONFIG} {FEW} strategy='fedavgm' server-momentum=0.9")
    run.wait_for_round(1)
    run.inject("SIGKILL of the SuperLink", lambda: federation.kill("superlink"))
    held = federation.superlink_that_holds("strategy_utils.py:aggregate_arrayrecords", call=2)
    until(held.exists, 120, run.logs)
    run.inject("SIGKILL of the SuperLink in aggregation", lambda: federation.kill("superlink"))
    federation.superlink()
    assert_same_as_undisturbed(run)


def test_the_power_fails_while_a_checkpoint_is_written(federation: Federation) -> None:
    run = FaultyRun(federation, f"{CONFIG} {FEW} strategy='fedadam'")
    run.wait_for_round(2)
    run.inject("SIGKILL of SuperLink and ServerApp", federation.power_cut)
    held = federation.superlink_that_holds("state/run.py:_put", call=2)
    until(held.exists, 120, run.logs)
    (partial,) = (run.folder / "checkpoint").glob(".*.partial")
    run.inject("the same while a checkpoint is written", federation.power_cut)
    federation.superlink()
    assert_same_as_undisturbed(run)
    assert not partial.exists(), "the next checkpoint of this round has taken its place"


def test_the_superlink_is_killed_with_most_replies_in(federation: Federation) -> None:
    run = FaultyRun(
        federation, f"{CONFIG} {FEW} privacy='central-adaptive' clipping-norm=5.0 noise-multiplier=0.01"
    )
    run.wait_for_round(2)
    federation.pause("supernode-2")
    try:
        run.wait_until_idle("supernode-0", "supernode-1")
        run.inject("SIGKILL of the SuperLink with 2 of 3 replies in", lambda: federation.kill("superlink"))
    finally:
        federation.resume("supernode-2")
    federation.superlink()
    run.wait_for_more_rounds()

    federation.pause("train")  # it has heard nothing of the end
    try:
        until(lambda: run.summary()["status"] == "completed", 120, run.logs)
        run.inject(
            "SIGKILL of the SuperLink when the run has just ended", lambda: federation.kill("superlink")
        )
    finally:
        federation.resume("train")
    federation.superlink()
    assert_same_as_undisturbed(run)
    assert "finished before the server was lost: 3 of 3 clients" in federation.log("train")
    assert run.is_the_latest(), "no second run was begun"
