"""The folder of a run that has a model, made without a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from app.learning.model import build_model
from app.learning.weights import get_arrays
from app.settings import RunSettings

SHAPE = (3, 32, 32)


def make_run(folder: Path, **settings: Any) -> Path:
    """A run of the tutorial's CNN, or of another model, that ended after its first round."""
    chosen = RunSettings(**settings)
    folder.mkdir(parents=True)
    told = {
        "event": "run_started", "time": "2026-11-30T10:00:00+00:00", "shape": list(SHAPE), "classes": ["cat", "dog", "emu"],
        "settings": chosen.to_run_config() | {"of-another-release": 1}, "checksum": "c",
    }  # fmt: skip
    (folder / "events.jsonl").write_text(json.dumps(told) + "\n")
    arrays = get_arrays(build_model(chosen, SHAPE, 3, load_weights=False), chosen.personal_prefixes)
    save_file(arrays, folder / "model.safetensors")
    save_file({name: array * 2 for name, array in arrays.items()}, folder / "model-best.safetensors")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "results" / "a-run")
