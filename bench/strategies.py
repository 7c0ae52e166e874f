"""Accuracy of five strategies on iid data and on Dirichlet 0.1, with seeds and spread.

The seed decides how the data is divided, the first weights and every batch.
"""

import json
import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from bench.data import CACHE
from bench.in_process import InProcessGrid
from bench.machine import describe, one_line
from bench.processes import BenchError

STRATEGIES = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi")
DIVISIONS: dict[str, dict[str, Any]] = {
    "iid": {"partitioner": "iid"},
    "Dirichlet 0.1": {"partitioner": "dirichlet", "alpha": 0.1},
}


def store(folder: Path, division: str, clients: int, seed: int) -> Path:
    """The data store of one division and seed."""
    from app.errors import UserError
    from app.learning.data.prepare import Request, prepare

    name = division.lower().replace(" ", "-")
    out = CACHE / "stores" / f"{folder.parent.name}-{folder.name}-{clients}-{name}-{seed}"
    try:
        prepare(
            Request(str(folder), num_partitions=clients, seed=seed, **DIVISIONS[division]), out, force=True
        )
    except UserError as error:
        raise BenchError(str(error)) from None
    return out


def accuracy(
    data: Path, scratch: Path, *, strategy: str, clients: int, rounds: int, seed: int
) -> list[float]:
    """Accuracy on the test split after every round of one run."""
    from app.server_app import app
    from app.settings import RunSettings

    settings = RunSettings.from_run_config(
        {
            "strategy": strategy,
            "num-server-rounds": rounds,
            "seed": seed,
            "fraction-evaluate": 0.0,  # the table is of the test split
            "min-train-nodes": clients,
            "min-available-nodes": clients,
        }
    )
    os.environ.update(BOUQUET_DATA=str(data), BOUQUET_RESULTS=str(scratch), BOUQUET_DEVICE="cpu")
    config = settings.to_run_config()
    with InProcessGrid(clients, config) as grid, redirect_stdout(StringIO()):
        app(grid, Context(1, 0, {}, RecordDict(), config))
    summary = json.loads((scratch / "latest" / "summary.json").read_text(encoding="utf-8"))
    if summary["failures"] or summary["rounds"] != rounds:
        first = next(iter(summary["failures"]), "no failure noted")
        raise BenchError(
            f"{strategy}: {len(summary['failures'])} failed replies in {summary['rounds']} of {rounds} rounds: {first}"
        )
    return list(summary["accuracy_per_round"])


def run(
    folder: Path,
    workspace: Path,
    *,
    strategies: Sequence[str],
    clients: int,
    rounds: int,
    seeds: Sequence[int],
    echo: Callable[[str], None],
) -> dict[str, Any]:
    """All strategies on all divisions with all seeds."""
    curves: dict[str, dict[str, dict[int, list[float]]]] = {s: {d: {} for d in DIVISIONS} for s in strategies}
    for seed in seeds:
        for division in DIVISIONS:
            data = store(folder, division, clients, seed)
            for strategy in strategies:
                scratch = workspace / f"{strategy}-{division.replace(' ', '-')}-{seed}"
                try:
                    curve = accuracy(
                        data, scratch, strategy=strategy, clients=clients, rounds=rounds, seed=seed
                    )
                except BenchError as error:
                    echo(f"failed: {error}")
                    continue
                curves[strategy][division][seed] = curve
                echo(f"{strategy}, {division}, seed {seed}: {100 * curve[-1]:.1f} %")
    return {
        "machine": describe(),
        "clients": clients,
        "rounds": rounds,
        "seeds": list(seeds),
        "curves": curves,
    }


def markdown(found: dict[str, Any]) -> str:
    """The table for the README: mean, standard deviation and range of the last round's accuracy."""
    lines = [
        f"Accuracy in % on the test split after {found['rounds']} rounds, {found['clients']} clients, "
        f"seeds {', '.join(map(str, found['seeds']))}: mean ± standard deviation (lowest to highest).",
        "",
        "| strategy | " + " | ".join(DIVISIONS) + " |",
        "|---|" + "---|" * len(DIVISIONS),
    ]
    for strategy, divisions in found["curves"].items():
        cells = [_cell([100 * curve[-1] for curve in divisions[name].values()]) for name in DIVISIONS]
        lines.append(f"| {strategy} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", one_line(found["machine"]), ""])


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "failed"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    mean, spread = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.1f} ± {spread:.1f} ({min(values):.1f} to {max(values):.1f})"


def write(found: dict[str, Any], folder: Path) -> None:
    """Write strategies.json and strategies.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "strategies.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (folder / "strategies.md").write_text(markdown(found), encoding="utf-8")
