"""What a run leaves behind: ``results/<run>/`` and the link ``results/latest``."""

import csv
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from safetensors.numpy import save_file

RESULTS_VARIABLE = "BOUQUET_RESULTS"
HISTORY_COLUMNS = (
    "round", "phase", "partition_id", "node_id", "num_examples", "loss", "accuracy", "seconds", "bytes_down", "bytes_up",
)  # fmt: skip


@dataclass
class Summary:
    """``summary.json``. Times in seconds; accuracy and loss of the global model on the test split.

    ``client_accuracy_per_round`` is the mean over the clients that evaluated, weighted by their examples.

    ``bytes_per_client_and_round`` are the records sent to and received from a client in a mean round; once
    the run has ended, what the SuperLink counted on the wire (:func:`record_traffic`).
    """

    run: str
    flower_run: str
    mode: str
    device: str
    dataset: str
    num_clients: int
    rounds: int
    accuracy: float | None = None
    loss: float | None = None
    wall_s: float = 0.0
    round_s: list[float] = field(default_factory=list)
    accuracy_per_round: list[float] = field(default_factory=list)
    client_accuracy_per_round: list[float | None] = field(default_factory=list)
    resumed_from: str | None = None
    failures: list[dict[str, Any]] = field(default_factory=list)
    bytes_per_client_and_round: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    privacy: dict[str, Any] | None = None


def write_aside(path: Path, text: str) -> None:
    """Write ``path`` so that a reader sees the old or the new content, never half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


class ResultsFolder:
    """One run's folder. Everything is on disk after every round."""

    def __init__(self, root: Path, run: str) -> None:
        self.path = root / run
        self.path.mkdir(parents=True, exist_ok=True)
        self._history = (self.path / "history.csv").open("a", newline="", encoding="utf-8")
        self._rows = csv.DictWriter(self._history, HISTORY_COLUMNS)
        if self._history.tell() == 0:
            self._rows.writeheader()
        self._link(root / "latest")

    def _link(self, link: Path) -> None:
        aside = link.with_name(f".latest.{os.getpid()}")
        aside.unlink(missing_ok=True)
        aside.symlink_to(self.path.name)
        aside.replace(link)

    def add_row(self, **values: Any) -> None:
        """Add one row to ``history.csv``."""
        self._rows.writerow({name: _short(values.get(name, "")) for name in HISTORY_COLUMNS})
        self._history.flush()

    def write_summary(self, summary: Summary) -> None:
        """Write ``summary.json``."""
        write_aside(
            self.path / "summary.json", json.dumps(_finite(asdict(summary)), indent=2, allow_nan=False) + "\n"
        )

    def write_model(self, arrays: ArrayRecord) -> None:
        """Write ``model.safetensors``: the global model under its state-dict names."""
        aside = self.path / ".model.safetensors"
        tensors: Mapping[str, np.ndarray] = {
            name: np.ascontiguousarray(array.numpy()) for name, array in arrays.items()
        }
        save_file(dict(tensors), aside)
        aside.replace(self.path / "model.safetensors")


def _finite(value: Any) -> Any:
    """``value`` with null for what JSON has no number for: the loss of a model that diverged."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def results_root() -> Path:
    """``BOUQUET_RESULTS``, or ``results`` here."""
    return Path(os.environ.get(RESULTS_VARIABLE, "") or "results")


def record_traffic(root: Path, run_id: int, bytes_down: int, bytes_up: int) -> None:
    """Put the bytes that the SuperLink counted for a run into its ``summary.json``, per client and round."""
    for file in root.glob("*/summary.json"):
        summary = json.loads(file.read_text(encoding="utf-8"))
        if summary.get("flower_run") != str(run_id) or not summary["rounds"]:
            continue
        share = summary["num_clients"] * summary["rounds"]
        summary["bytes_per_client_and_round"] = {
            "down": round(bytes_down / share),
            "up": round(bytes_up / share),
        }
        write_aside(file, json.dumps(summary, indent=2) + "\n")
        return
