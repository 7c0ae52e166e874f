"""The model of a run, built from what its events tell and filled with one of its safetensors files."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from app.errors import UserError
from app.learning.model import Shape, build_model
from app.learning.weights import set_arrays
from app.rounds.results import BEST_MODEL, MODEL, read_events
from app.settings import RunSettings, run_keys

BEST, LAST = "best", "last"
_FILES = {BEST: BEST_MODEL, LAST: MODEL}


@dataclass(frozen=True)
class Trained:
    """A model that a run has trained.

    Attributes:
        model: on the CPU, for evaluation.
        settings: of its run.
        shape: of the pictures that it takes: channels, height, width.
        classes: their names, in the order of the model's outputs.
        file: where the weights come from.
    """

    model: nn.Module
    settings: RunSettings
    shape: Shape
    classes: list[str]
    file: Path


def of_run(folder: Path, started: Mapping[str, Any], which: str = BEST, *, whole: bool = True) -> Trained:
    """The model of a run.

    Args:
        folder: of the run.
        started: its event ``run_started``.
        which: ``best``, ``last``, or a safetensors file.
        whole: refuse a model of which a part never left the clients.

    Raises:
        UserError: the run has no such model, or it cannot be built here.
    """
    shape, classes = _data(folder, started)
    settings = _settings(started)
    if whole and settings.personal_prefixes:
        raise UserError(
            f"the run {folder.name} has no whole model: its clients keep the layers {settings.personal_layers} "
            "(personal-layers); take a run without them"
        )
    file = _file(folder, which)
    model = build_model(settings, shape, len(classes), load_weights=False)
    try:
        set_arrays(model, load_file(file), settings.personal_prefixes)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file} cannot be read as a safetensors file: {error}; give another --model"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{file} is no model of the run {folder.name}: {error}; give another --model"
        ) from None
    return Trained(model.eval(), settings, shape, classes, file)


def beginning(folder: Path) -> Mapping[str, Any]:
    """The event ``run_started`` of a run, the last one; empty where it has none. Raises UserError where there is no run."""
    try:
        told = [each for each in read_events(folder / "events.jsonl") if each.get("event") == "run_started"]
    except OSError as error:
        raise UserError(
            f"{folder} holds no run ({error.strerror}); give a folder such as results/latest"
        ) from None
    return told[-1] if told else {}


def load_model(folder: str | Path, which: str = BEST) -> Trained:
    """The model in the folder of a run's results. ``which``, and what is raised, as in :func:`of_run`."""
    folder = Path(folder).resolve()
    return of_run(folder, beginning(folder), which)


def _file(folder: Path, which: str) -> Path:
    file = folder / _FILES[which] if which in _FILES else Path(which)
    if file.is_file():
        return file
    close = difflib.get_close_matches(which, _FILES, n=1)
    hint = (
        f"did you mean {close[0]}?"
        if close and which not in _FILES
        else "no round was finished, or it was removed"
    )
    raise UserError(f"--model {which}: there is no file {file}; {hint}")


def _data(folder: Path, started: Mapping[str, Any]) -> tuple[Shape, list[str]]:
    """The shape and the classes of the pictures."""
    shape, classes = started.get("shape") or (), started.get("classes") or []
    if len(shape) != 3 or len(classes) < 2:
        raise UserError(
            f"the run {folder.name} tells no shape and classes of pictures, so it is of another app; "
            "its own code loads its model"
        )
    channels, height, width = (int(number) for number in shape)
    return (channels, height, width), [str(name) for name in classes]


def _settings(started: Mapping[str, Any]) -> RunSettings:
    """The settings of the run. Those that another release had are left out; the file of weights is not needed again."""
    known = set(run_keys())
    told = {key: value for key, value in started.get("settings", {}).items() if key in known}
    return RunSettings.from_run_config(told | {"weights": "", "task": "train"})
