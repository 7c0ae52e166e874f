"""Checkpoints: which ones stay, what a damaged one does, and which run goes on."""

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import UserError
from app.packing.arrays import to_record
from app.rounds.results import Summary
from app.rounds.state import resume
from app.rounds.state.checkpoints import FOLDER, Checkpoints
from app.rounds.state.run import MODEL, SUMS, Experiment, RunState
from app.rounds.strategies import make_strategy
from app.settings import RunSettings


def _state(number: int, best: int | None = None, **settings: Any) -> RunState:
    chosen = RunSettings(**settings)
    arrays = to_record({"a": np.full(3, number, np.float32)})
    summary = Summary(run="r", rounds=number, best={"round": best} if best else None)
    experiment = Experiment(chosen.to_run_config(), "app", "data")
    return RunState(number, arrays, make_strategy(chosen), summary, experiment=experiment)


def _run(results: Path, name: str, rounds: int, status: str = "running", **settings: Any) -> Path:
    folder = results / name
    folder.mkdir(parents=True)
    for number in range(1, rounds + 1):
        Checkpoints(folder).save(_state(number, **settings))
    (folder / "summary.json").write_text(f'{{"status": "{status}"}}')
    return folder


def _now(**settings: Any) -> Experiment:
    return Experiment(RunSettings(**settings).to_run_config(), "app", "data")


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep=2)
    for number in range(1, 6):
        written = kept.save(_state(number, best=min(number, 2)))
    assert kept.rounds() == [5, 4, 2] and written.kept == [2, 4, 5]
    assert written.bytes == sum(file.stat().st_size for file in kept.path(5).iterdir())
    assert sorted(entry.name for entry in (tmp_path / FOLDER).iterdir()) == ["2", "4", "5"]


@pytest.mark.parametrize("damage", ["cut short", "changed", "no checksums"])
def test_a_damaged_one_is_told_and_the_one_before_is_used(damage: str, tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for number in (1, 2):
        kept.save(_state(number))
    model = kept.path(2) / MODEL
    if damage == "cut short":
        os.truncate(model, 50)
    elif damage == "changed":
        model.write_bytes(model.read_bytes()[:-1] + b"\1")
    else:
        (kept.path(2) / SUMS).unlink()
    whole, told = kept.newest_whole()
    assert whole == kept.path(1) and len(told) == 1 and str(kept.path(2)) in told[0]


def test_rounds_that_are_run_again_lose_their_checkpoints(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep=3)
    for number in (1, 2, 3):
        kept.save(_state(number))
    kept.forget_after(1)
    assert kept.rounds() == [1]


def test_auto_continues_the_newest_unfinished_run_of_the_same_experiment(tmp_path: Path) -> None:
    for name, rounds, status, settings in (
        ("old", 2, "running", {}),
        ("mine", 3, "interrupted", {}),
        ("ended", 2, "completed", {}),
        ("on-a-subset", 2, "subset", {}),
        ("other", 2, "failed", {"learning_rate": 0.5}),
    ):
        _run(tmp_path, name, rounds, status, **settings)
        time.sleep(0.01)
    found = resume.find("auto", tmp_path, "", _now())
    assert found is not None and found.checkpoint == tmp_path / "mine" / FOLDER / "3" and not found.damaged
    assert resume.find("never", tmp_path, "", _now()) is None
    assert resume.find("auto", tmp_path, "", _now(seed=1)) is None
    other_app = Experiment(_now().settings, "another", "data")
    assert resume.find("auto", tmp_path, "", other_app) is None


def test_a_run_that_another_app_began_is_passed_over_with_the_difference(tmp_path: Path) -> None:
    """And one that has other settings is simply another one."""
    folder = _run(tmp_path, "mine", 3, "interrupted")
    upgraded = Experiment(_now(seed=1).settings, "another", "data")
    assert resume.passed_over(tmp_path, upgraded) == (
        folder, ["seed is 1, was 42", "the app's hash is another, was app"],
    )  # fmt: skip
    assert resume.passed_over(tmp_path, _now(seed=1)) is None
    time.sleep(0.01)
    _run(tmp_path, "newer", 2, "failed", seed=1)
    _run(tmp_path, "ended", 2, "completed")
    assert resume.passed_over(tmp_path, _now(seed=1)) is None


def test_auto_goes_on_with_other_limits_of_waiting_but_not_with_other_rounds(tmp_path: Path) -> None:
    _run(tmp_path, "mine", 2, "failed")
    assert resume.find("auto", tmp_path, "", _now(num_server_rounds=9)) is None
    assert resume.find("auto", tmp_path, "", _now(min_replies=0.1, round_deadline=5.0)) is not None


def _hold(folder: Path, ready: Any) -> None:
    assert resume.lock(folder)
    ready.set()
    time.sleep(60)


def test_a_run_that_another_process_runs_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _run(tmp_path, "mine", 2)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(folder, ready), daemon=True)
    process.start()
    try:
        assert ready.wait(60)
        monkeypatch.setattr(resume, "LOCK_WAIT_S", 0.3)
        assert resume.find("auto", tmp_path, "", _now()) is None
        with pytest.raises(UserError, match="another process runs it"):
            resume.find("mine", tmp_path, "", _now())
    finally:
        process.kill()
        process.join()
    assert resume.find("auto", tmp_path, "", _now()) is not None, (
        "the kernel frees what a killed process held"
    )


def test_a_named_run_may_have_more_rounds_and_no_other_difference(tmp_path: Path) -> None:
    folder = _run(tmp_path, "mine", 3, "completed")
    for named in ("mine", str(folder), str(folder / FOLDER / "2")):
        found = resume.find(named, tmp_path, "", _now(num_server_rounds=20, patience=3))
        assert found is not None and found.folder == folder
    assert found is not None and found.checkpoint == folder / FOLDER / "2"
    with pytest.raises(
        UserError, match=r"another experiment: learning-rate is 0\.5, was 0\.001; seed is 1, was 42;"
    ):
        resume.find("mine", tmp_path, "", _now(learning_rate=0.5, seed=1))
    with pytest.raises(UserError, match="the app's hash is another, was app; the data is more, was data"):
        resume.find("mine", tmp_path, "", Experiment(_now().settings, "another", "more"))
    with pytest.raises(UserError, match="no such folder"):
        resume.find("nothing", tmp_path, "", _now())


def test_more_rounds_would_change_the_rates_of_a_cosine_schedule(tmp_path: Path) -> None:
    _run(tmp_path, "mine", 2, lr_schedule="cosine")
    with pytest.raises(UserError, match="num-server-rounds is 20, was 5"):
        resume.find("mine", tmp_path, "", _now(lr_schedule="cosine", num_server_rounds=20))


def test_a_run_that_must_have_a_name_never_takes_another_ones_folder(tmp_path: Path) -> None:
    _run(tmp_path, "mine", 2)
    assert resume.find("auto", tmp_path, "mine", _now()) is not None
    assert resume.find("auto", tmp_path, "new", _now()) is None
    for setting in ("auto", "never"):
        with pytest.raises(UserError, match="BOUQUET_RUN=mine"):
            resume.find(setting, tmp_path, "mine", _now(seed=7))


def test_a_submission_that_was_cut_off_finds_its_run_whatever_resume_says(tmp_path: Path) -> None:
    for name, submission in (("mine", "1a2b"), ("newer", "3c4d")):
        folder = _run(tmp_path, name, 3, submission=submission)
        summary = {"status": "running", "settings": {"submission": submission}}
        (folder / "summary.json").write_text(json.dumps(summary))
    for asked in ("auto", "never", "mine/checkpoint/1"):
        found = resume.find(asked, tmp_path, "", _now(resume=asked, submission="1a2b"))
        assert found is not None and found.checkpoint == tmp_path / "mine" / "checkpoint" / "3"
    assert resume.find("never", tmp_path, "", _now(submission="5e6f")) is None
    assert resume.of_submission(tmp_path, "") is None
