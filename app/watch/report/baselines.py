"""What the federation is worth: each partition alone, and all data in one place, with the run's settings and as many epochs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.files import write_atomically
from app.learning.data.store import Store
from app.rounds.results import finite
from app.settings import RunSettings, run_keys
from app.tutorial.centralized import train_alone
from app.watch.report.gather import Run

FILE = "baselines.json"


@dataclass(frozen=True)
class Baselines:
    """Loss and accuracy on the test split: of each partition alone, and of all data together, after ``epochs``."""

    epochs: int
    alone: list[tuple[float | None, float]]
    pooled: tuple[float | None, float]


def train_baselines(run: Run, store: Store, folder: Path, echo: Callable[[str], None]) -> Baselines:
    """Train them, and keep the result in ``folder``, from which it is read the next time.

    Raises:
        UserError: the run has no finished round, or its settings do not work here.
    """
    if (known := read_baselines(run, folder)) is not None:
        return known
    if not run.rounds:
        raise UserError(f"--with-baselines: the run {run.name} has no finished round to compare with")
    settings = _settings(run)
    epochs = len(run.rounds) * settings.local_epochs
    count = store.manifest.num_partitions

    def trained(what: str, **how: Any) -> tuple[float | None, float]:
        loss, accuracy = train_alone(store, settings, epochs=epochs, echo=lambda _: None, **how).test
        echo(f"baseline, {what}: accuracy {accuracy:.4f} after {epochs} epochs")
        return finite(loss), accuracy

    alone = [trained(f"partition {i} of {count} alone", partition_id=i) for i in range(count)]
    made = Baselines(epochs, alone, trained("all data in one place", all_data=True))
    content = _key(run) | {"epochs": epochs, "alone": made.alone, "pooled": made.pooled}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE, json.dumps(content, indent=1).encode())
    return made


def read_baselines(run: Run, folder: Path) -> Baselines | None:
    """Those of an earlier report of the same rounds; None where there are none."""
    try:
        content = json.loads((folder / FILE).read_bytes())
        if {key: content[key] for key in _key(run)} != _key(run):
            return None
        alone = [(loss, float(accuracy)) for loss, accuracy in content["alone"]]
        loss, accuracy = content["pooled"]
        return Baselines(int(content["epochs"]), alone, (loss, float(accuracy)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _key(run: Run) -> dict[str, Any]:
    return {"rounds": len(run.rounds), "checksum": run.started.get("checksum", "")}


def _settings(run: Run) -> RunSettings:
    known = set(run_keys())
    return RunSettings.from_run_config({k: v for k, v in run.settings.items() if k in known})
