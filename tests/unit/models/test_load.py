"""The model of a run is built from what its events tell."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from app.errors import UserError
from app.learning.weights import get_arrays
from app.models.load import load_model

from .conftest import SHAPE, make_run


@pytest.mark.parametrize(
    ("which", "file"), [("best", "model-best.safetensors"), ("last", "model.safetensors")]
)
def test_the_weights_are_those_of_the_file(run: Path, which: str, file: str) -> None:
    trained = load_model(run, which)
    assert trained.file == run / file and trained.classes == ["cat", "dog", "emu"] and trained.shape == SHAPE
    wanted = load_file(run / file)
    assert all((array == wanted[name]).all() for name, array in get_arrays(trained.model).items())
    assert not trained.model.training and trained.model(torch.zeros(1, *SHAPE)).shape == (1, 3)


def test_any_file_of_the_same_model_can_be_taken(run: Path) -> None:
    assert load_model(run, str(run / "model.safetensors")).file.name == "model.safetensors"


def test_a_run_that_began_with_weights_does_not_need_them_again(tmp_path: Path) -> None:
    assert load_model(make_run(tmp_path / "r", weights="/gone.safetensors")).settings.weights == ""


def test_what_cannot_be_loaded_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run .*; give a folder"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="--model bets: there is no file bets; did you mean best"):
        load_model(run, "bets")
    (run / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as a safetensors file"):
        load_model(run, "last")
    (run / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no round was finished"):
        load_model(run, "last")
    other = make_run(tmp_path / "other", model="resnet18", norm="group")
    with pytest.raises(UserError, match="is no model of the run a-run"):
        load_model(run, str(other / "model.safetensors"))


def test_a_run_of_another_app_and_one_with_personal_layers_have_no_model_here(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"its clients keep the layers fc3 \(personal-layers\)"):
        load_model(make_run(tmp_path / "personal", personal_layers="fc3"))
    (run / "events.jsonl").write_text(json.dumps({"event": "run_started", "shape": [], "classes": []}) + "\n")
    with pytest.raises(UserError, match="so it is of another app"):
        load_model(run)
