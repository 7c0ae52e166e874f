"""What Bouquet costs, beside what the same work costs elsewhere.

    python -m bench                      the comparison: table, results/bench/<time>/bench.{json,md,png}
    python -m bench --quick              the same in small, to see that it runs
    python -m bench --only bouquet,arithmetic,flare-tuned
    python -m bench scaling              seconds, SuperLink CPU and memory against clients and parameters
    python -m bench idle                 what ten idle clients cost
    python -m bench strategies           accuracy of five strategies, for the README

On a machine with a GPU the comparison is done twice, with the tutorial's CNN and with ResNet-18, and all
contenders train on the GPU. That path is written but was not tried: no GPU was at hand.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.processes import BenchError, end_on_sigterm

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(soft_wrap=False)

Dataset = Annotated[
    str,
    typer.Option(help="Folder in hub form, hub name or `digits` ($BOUQUET_BENCH_DATA; default CIFAR-10)."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Two rounds, few pictures, once.")]
Out = Annotated[Path, typer.Option(help="Where results go, in a folder named by the time.")]
RESULTS = Path("results") / "bench"


@app.callback(invoke_without_command=True)
def comparison(
    context: typer.Context,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds per run; the first is not counted.")] = 5,
    clients: Annotated[int, typer.Option(min=2, help="Number of clients.")] = 10,
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions, interleaved.")] = 3,
    slow_repeat: Annotated[
        int, typer.Option(min=0, help="Repetitions of stock Flower (minutes a round).")
    ] = 1,
    only: Annotated[str, typer.Option(help="Keys of the rows to measure, separated by commas.")] = "",
    dataset: Dataset = "",
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Measure all contenders side by side."""
    if context.invoked_subcommand:
        return
    import torch

    from bench import compare, data, machine, report
    from bench.contenders.contract import Workload
    from bench.workload import TUTORIAL_MODEL

    gpu = torch.cuda.is_available()
    keys = [key for key in only.split(",") if key]
    known = [contender.key for contender in compare.contenders(gpu)]
    if unknown := set(keys) - set(known):
        raise BenchError(f"--only: no row {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if quick:
        rounds, repeat = 2, 1
    folder = _data(dataset, 500 * clients if quick else None, 1000 if quick else None)
    with tempfile.TemporaryDirectory(prefix="bouquet-bench-", ignore_cleanup_errors=True) as workspace:
        for model in [TUTORIAL_MODEL, *(["resnet18"] if gpu else [])]:
            work = Workload(
                folder,
                data.store(folder, clients),
                Path(workspace),
                rounds=rounds,
                clients=clients,
                model=model,
            )
            found = compare.compare(
                work,
                machine.describe(),
                gpu=gpu,
                only=keys,
                repeat=repeat,
                slow_repeat=slow_repeat,
                say=lambda line: console.print(line, markup=False),
            )
            found.machine = machine.describe()  # FLARE and Ray may have been installed just now
            target = _folder(out) / model
            report.write(found, target)
            report.show(found, console)
            _keep_logs(found, Path(workspace), target)
            console.print(f"written to {target}")


def _keep_logs(found: object, workspace: Path, target: Path) -> None:
    """Keep the logs of contenders that failed."""
    from bench.compare import Comparison

    assert isinstance(found, Comparison)
    for row in found.rows:
        if row.problem:
            for scratch in workspace.glob(f"*-{row.key}"):
                for log in scratch.glob("*.log"):
                    (target / "logs" / scratch.name).mkdir(parents=True, exist_ok=True)
                    shutil.copy(log, target / "logs" / scratch.name)


def _data(dataset: str, train: int | None, test: int | None) -> Path:
    """The folder of the data set; `digits`, said aloud, where the default cannot be had."""
    from bench import data

    name = data.chosen(dataset)
    try:
        folder = data.hub_folder(name, train, test)
    except BenchError as error:
        if dataset or name != data.HUB_NAME:
            raise
        console.print(f"{error}\nGoing on with scikit-learn's digits: these are not CIFAR-10's figures.")
        folder = data.hub_folder(data.DIGITS, train, test)
    return folder


def _folder(out: Path) -> Path:
    return out / time.strftime("%Y%m%d-%H%M%S")


def main() -> int:
    """Run a command; a problem is one line."""
    end_on_sigterm()
    try:
        app(standalone_mode=False)
    except BenchError as error:
        console.print(f"error: {error}", markup=False)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        console.print("interrupted; everything that was started is ended")
        return 130
    except Exception as error:
        if type(error).__module__.startswith("click"):
            console.print(f"error: {error}", markup=False)
            return 2
        raise
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
