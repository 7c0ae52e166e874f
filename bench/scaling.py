"""How Bouquet's cost grows with the number of clients and with the size of the model.

Every client has little data, so that what grows is the federation's own cost and not the arithmetic.
"""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import data
from bench.contenders.bouquet import read_summary, up_command
from bench.contenders.contract import Workload
from bench.environments import ROOT
from bench.machine import describe, one_line
from bench.processes import BenchError, Processes
from bench.watch import RoundWatch

CLIENTS = (5, 10, 20, 40)
MODELS = ("cnn", "shufflenet_v2_x1_0", "resnet18")
"""62 thousand, 1.3 million and 11 million parameters."""
PICTURES = 50
"""Pictures of a client: 40 to train on, 10 to validate on."""
TIMEOUT_S = 1800.0


@dataclass(slots=True)
class Point:
    """One federation's cost in rounds after the first."""

    clients: int
    model: str
    parameters: int
    round_s: float
    superlink_cpu_s: float
    """Of the SuperLink's process, per client and round."""
    superlink_pss_mb: float
    client_pss_mb: float
    """Per client: its SuperNode and all that this started."""
    client_uss_mb: float


QUANTITIES = (
    ("round_s", "seconds per round"),
    ("superlink_cpu_s", "SuperLink CPU seconds per client and round"),
    ("superlink_pss_mb", "SuperLink memory, MB"),
    ("client_pss_mb", "memory per client, MB"),
)


def measure(workload: Workload, scratch: Path) -> Point:
    """Run `bouquet up` and watch it."""
    results = scratch / "results"
    with Processes(scratch, {"PYTHONPATH": str(ROOT)}) as processes:
        process = processes.start("up", up_command(workload, results), cwd=ROOT)
        watch = RoundWatch(results, processes)
        watch.follow(workload.rounds, lambda: process.poll() is None)
        try:
            status = process.wait(TIMEOUT_S)
        except TimeoutError:
            raise BenchError("the run does not end") from None
    if status:
        raise BenchError(f"`bouquet up` ended with status {status}; see {scratch / 'up.log'}")
    summary = read_summary(results, workload.rounds)
    cpu = watch.superlink_cpu_per_round()
    if cpu is None or "client" not in watch.memory:
        raise BenchError("the run was too short to be watched; give it more rounds")
    return Point(
        clients=workload.clients,
        model=workload.model,
        parameters=_parameters(results / "latest" / "model.safetensors"),
        round_s=statistics.median(summary["round_s"][1:]),
        superlink_cpu_s=cpu / workload.clients,
        superlink_pss_mb=watch.memory["superlink"][0],
        client_pss_mb=watch.memory["client"][0] / workload.clients,
        client_uss_mb=watch.memory["client"][1] / workload.clients,
    )


def growth(points: Sequence[Point], along: str, quantity: str) -> float:
    """The exponent k of `quantity ~ along ** k`, by least squares on the logarithms."""
    x = [math.log(getattr(point, along)) for point in points]
    y = [math.log(max(getattr(point, quantity), 1e-9)) for point in points]
    return float(np.polyfit(x, y, 1)[0])


def run(
    dataset: str,
    workspace: Path,
    *,
    clients: Sequence[int],
    models: Sequence[str],
    rounds: int,
    repeat: int,
    echo: Callable[[str], None],
) -> dict[str, Any]:
    """Measure both series; the median over the repetitions of every quantity."""
    series: dict[str, list[Point]] = {"clients": [], "parameters": []}
    plan = [("clients", number, models[0]) for number in clients]
    plan += [("parameters", 10, model) for model in models]
    measured: dict[tuple[int, str], Point] = {}
    for along, number, model in plan:
        if (number, model) not in measured:
            folder = data.hub_folder(dataset, PICTURES * number, 200)
            store = data.store(folder, number)
            points = []
            for repetition in range(repeat):
                scratch = workspace / f"{number}-{model}-{repetition}"
                workload = Workload(folder, store, workspace, rounds=rounds, clients=number, model=model)
                points.append(measure(workload, scratch))
                echo(f"{number} clients, {model}: {points[-1].round_s:.2f} s per round")
            measured[number, model] = _median(points)
        series[along].append(measured[number, model])
    return {
        "machine": describe(),
        "series": {along: [asdict(point) for point in points] for along, points in series.items()},
        "growth": {
            along: {name: growth(points, along, name) for name, _ in QUANTITIES}
            for along, points in series.items()
            if len(points) > 1
        },
    }


def _median(points: Sequence[Point]) -> Point:
    def middle(name: str) -> float:
        return float(statistics.median(getattr(point, name) for point in points))

    first = points[0]
    return Point(
        first.clients,
        first.model,
        first.parameters,
        *(
            middle(name)
            for name in ("round_s", "superlink_cpu_s", "superlink_pss_mb", "client_pss_mb", "client_uss_mb")
        ),
    )


def _parameters(file: Path) -> int:
    from safetensors import safe_open

    with safe_open(file, framework="np") as tensors:
        names: list[str] = list(tensors.keys())
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)


def show(found: dict[str, Any], console: Console) -> None:
    """Print both series with their growth."""
    for along, points in found["series"].items():
        table = Table(title=f"Growth with {along}", caption=one_line(found["machine"]))
        for column in ("clients", "parameters", *(title for _, title in QUANTITIES)):
            table.add_column(column)
        for point in points:
            numbers = (f"{point[name]:.4g}" for name, _ in QUANTITIES)
            table.add_row(str(point["clients"]), f"{point['parameters']:,}", *numbers)
        if along in found["growth"]:
            exponents = (f"^{found['growth'][along][name]:.2f}" for name, _ in QUANTITIES)
            table.add_row("grows as", along, *exponents, style="bold")
        console.print(table)
    points = {point["clients"]: point["superlink_cpu_s"] for point in found["series"]["clients"]}
    if 10 in points and 40 in points:
        ratio = points[40] / points[10]
        console.print(
            f"  SuperLink CPU per client and round, 40 clients / 10: {ratio:.2f} (goal: at most 1.3)"
        )


def write(found: dict[str, Any], folder: Path) -> None:
    """Write scaling.json and scaling.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scaling.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(2, len(QUANTITIES), figsize=(4 * len(QUANTITIES), 6.5))
    for row, (along, points) in zip(grid, found["series"].items(), strict=True):
        x = [point[along] for point in points]
        for axes, (name, title) in zip(row, QUANTITIES, strict=True):
            axes.plot(x, [point[name] for point in points], "o-", color="#d6336c")
            axes.set_xscale("log")
            axes.set_xlabel(along)
            axes.set_ylim(bottom=0)
            exponent = found["growth"].get(along, {}).get(name)
            axes.set_title(
                f"{title}\n~ {along}^{exponent:.2f}" if exponent is not None else title, fontsize=9
            )
    figure.tight_layout()
    figure.savefig(folder / "scaling.png", dpi=150)
    pyplot.close(figure)
