"""A model is written only where it gives what PyTorch gives."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.errors import UserError
from app.models import export as forms
from app.models.export import export
from app.models.load import load_model

from .conftest import make_run

PICTURES = np.random.default_rng(0).integers(0, 256, (7, 3, 32, 32), np.uint8)


@pytest.mark.parametrize(
    "settings", [{}, {"model": "resnet18", "norm": "group"}, {"model": "mobilenet_v3_small"}]
)
def test_torchscript_gives_the_same_without_bouquet(tmp_path: Path, settings: dict[str, Any]) -> None:
    trained = load_model(make_run(tmp_path / "run", **settings))
    made = export(trained, "torchscript", tmp_path / "out" / "model.pt", PICTURES)
    assert made.difference <= 1e-4
    more = {"bouquet.json": ""}
    loaded = torch.jit.load(made.file, _extra_files=more)
    pictures = torch.from_numpy(PICTURES[:5]) / 127.5 - 1
    with torch.no_grad():
        assert torch.allclose(loaded(pictures), trained.model(pictures), atol=1e-4)
    assert json.loads(json.loads(more["bouquet.json"])["classes"]) == ["cat", "dog", "emu"]


@pytest.mark.parametrize("settings", [{}, {"model": "resnet18", "norm": "group"}])
def test_onnx_gives_the_same_without_torch(tmp_path: Path, settings: dict[str, Any]) -> None:
    import onnxruntime

    trained = load_model(make_run(tmp_path / "run", **settings))
    made = export(trained, "onnx", tmp_path / "model.onnx", PICTURES)
    session = onnxruntime.InferenceSession(made.file, providers=["CPUExecutionProvider"])
    pictures = PICTURES[:5].astype(np.float32) / 127.5 - 1
    (given,) = session.run(None, {"pictures": pictures})
    with torch.no_grad():
        wanted = trained.model(torch.from_numpy(pictures)).numpy()
    assert np.abs(given - wanted).max() <= 1e-4
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["cat", "dog", "emu"] and "x / 127.5 - 1" in told["input"]


def test_a_file_that_would_differ_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = forms._torchscript

    def other(*given: Any) -> Any:
        content, logits = original(*given)
        return content, logits + 0.01

    monkeypatch.setattr(forms, "_torchscript", other)
    with pytest.raises(
        UserError, match=r"differ from PyTorch's by 0.01, more than 0.0001; no file is written"
    ):
        export(load_model(run), "torchscript", tmp_path / "model.pt")
    monkeypatch.setattr(forms, "_torchscript", lambda *given: (b"", original(*given)[1] * float("nan")))
    with pytest.raises(UserError, match="by nan"):
        export(load_model(run), "torchscript", tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


def test_without_onnx_the_way_out_is_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def lacks(name: str, *more: Any) -> Any:
        if name == "onnx":
            raise ImportError("no", name="onnx")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", lacks)
    with pytest.raises(UserError, match=r"onnx is not installed; run pip install 'bouquet\[export\]'"):
        export(load_model(run), "onnx", tmp_path / "model.onnx")


def test_a_model_that_cannot_be_written_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any) -> Any:
        raise RuntimeError("an operator\nis missing")

    monkeypatch.setattr(torch.jit, "trace", fails)
    with pytest.raises(UserError, match="--format torchscript: the model cannot be written so: an operator;"):
        export(load_model(run), "torchscript", tmp_path / "model.pt")


def test_where_no_file_can_be_written_is_one_line(run: Path) -> None:
    with pytest.raises(UserError, match=r"--out /proc/no/model\.pt cannot be written"):
        export(load_model(run), "torchscript", Path("/proc/no/model.pt"))
