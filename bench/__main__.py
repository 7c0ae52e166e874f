"""What Bouquet costs, beside what the same work costs elsewhere.

    python -m bench                      the comparison: table, results/bench/<time>/bench.{json,md,png}
    python -m bench --quick              the same in small, to see that it runs
    python -m bench --only bouquet,arithmetic,flare-tuned
    python -m bench scaling              seconds, SuperLink CPU and memory against clients and parameters
    python -m bench idle                 what ten idle clients cost
    python -m bench watching             what metrics, TensorBoard and MLflow cost a round
    python -m bench siege                the same training while a stranger and a hostile member attack
    python -m bench faults               what the same faults cost Bouquet, stock Flower and NVIDIA FLARE
    python -m bench examples FOLDER      apps of others, such as a checkout of Flower's examples, beside stock Flower
    python -m bench strategies           accuracy of five strategies, for the README

On a machine with a GPU the comparison is done twice, with the tutorial's CNN and with ResNet-18, and all
contenders train on the GPU. That path is written but was not tried: no GPU was at hand.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from app.environment import whole
from bench.processes import BenchError, end_on_sigterm

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()
if not console.is_terminal:
    console = Console(width=180)  # a log has no width; the table needs one

Dataset = Annotated[
    str,
    typer.Option(help="Folder in hub form, hub name or `digits` ($BOUQUET_BENCH_DATA; default CIFAR-10)."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Two rounds, few pictures, once.")]
Out = Annotated[Path, typer.Option(help="Where results go, in a folder named by the time.")]
RESULTS = Path("results") / "bench"
INTERRUPTED = 130


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
    with _workspace() as workspace:
        for model in [TUTORIAL_MODEL, *(["resnet18"] if gpu else [])]:
            work = Workload(
                folder,
                data.store(folder, clients),
                workspace,
                rounds=rounds,
                clients=clients,
                model=model,
            )
            target = _folder(out) / model
            found = compare.compare(
                work,
                machine.describe(),
                gpu=gpu,
                only=keys,
                repeat=repeat,
                slow_repeat=slow_repeat,
                echo=_say,
                keep=partial(report.write_json, folder=target),
            )
            found.machine = machine.describe()  # FLARE and Ray may have been installed just now
            report.write(found, target)
            report.show(found, console)
            _keep_logs(found, workspace, target)
            console.print(f"written to {target}")


@app.command()
def scaling(
    rounds: Annotated[int, typer.Option(min=3, help="Rounds per federation; the first is not counted.")] = 8,
    clients: Annotated[str, typer.Option(help="Numbers of clients.")] = "5,10,20,40",
    models: Annotated[str, typer.Option(help="Models, small to large.")] = "cnn,shufflenet_v2_x1_0,resnet18",
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions of every point.")] = 3,
    dataset: Dataset = "",
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Seconds, SuperLink CPU and memory against the number of clients and the size of the model."""
    from bench import scaling as part

    numbers = [whole(1).parse(number) for number in clients.split(",")]
    names = models.split(",")
    if quick:
        rounds, repeat, numbers, names = 3, 1, numbers[:2], names[:2]
    name, _ = _reachable(dataset, part.PICTURES * max(numbers), 200)
    with _workspace() as workspace:
        found = part.run(
            name,
            workspace,
            clients=numbers,
            models=names,
            rounds=rounds,
            repeat=repeat,
            echo=_say,
        )
    target = _folder(out)
    part.write(found, target)
    part.show(found, console)
    _say(f"written to {target}")


@app.command()
def idle(
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 10,
    seconds: Annotated[float, typer.Option(min=5, help="How long to watch.")] = 60.0,
    dataset: Dataset = "",
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """CPU and memory of clients that wait for work, as plain processes and in containers."""
    from bench import data
    from bench import idle as part

    folder = _data(dataset, 50 * clients, 200)
    with _workspace() as workspace:
        watched = 10 if quick else seconds
        found = part.run(data.store(folder, clients), workspace / "processes", clients, watched, _say)
        part.add_containers(found, folder, workspace / "containers", clients, watched, _say)
    _conclude(part, found, out)


@app.command()
def watching(
    clients: Annotated[int, typer.Option(min=2, help="Number of clients.")] = 10,
    rounds: Annotated[int, typer.Option(min=4, help="Rounds of each run; the second half counts.")] = 16,
    repeat: Annotated[int, typer.Option(min=1, help="Pairs of runs.")] = 5,
    model: Annotated[str, typer.Option(help="The model.")] = "cnn",
    config: Annotated[str, typer.Option(help="More run-config pairs.")] = "",
    dataset: Dataset = "",
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """What a round costs more when metrics, TensorBoard and MLflow are on."""
    from bench import data
    from bench import watching as part
    from bench.contenders.contract import Workload

    if quick:
        rounds, repeat = 4, 1
    folder = _data(dataset, 500 * clients if quick else None, 1000 if quick else None)
    with _workspace() as workspace:
        work = Workload(
            folder, data.store(folder, clients), workspace, rounds=rounds, clients=clients, model=model
        )
        found = part.run(work, config, repeat, _say)
    _conclude(part, found, out)


@app.command()
def siege(
    clients: Annotated[int, typer.Option(min=2, help="Number of clients.")] = 10,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of each run.")] = 30,
    connections: Annotated[int, typer.Option(min=1, help="Connections of each attacker.")] = 2000,
    calls: Annotated[int, typer.Option(min=1, help="Calls of each attacker.")] = 20_000,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Speed, memory and log while a stranger and a hostile member attack; always on digits."""
    from bench import data
    from bench import siege as part

    size = part.Size(clients, rounds, connections, calls)
    if quick:
        size = part.Size(2, 2, 100, 1000)
    with _workspace() as workspace:
        store = data.store(data.hub_folder(data.DIGITS), size.clients)
        found = part.run(store, workspace, size, _say)
    _conclude(part, found, out)


@app.command()
def faults(
    clients: Annotated[int, typer.Option(min=3, help="Number of clients.")] = 3,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of each run.")] = 8,
    fault_round: Annotated[int, typer.Option(min=1, help="The round in which something breaks.")] = 3,
    work_s: Annotated[
        float, typer.Option(min=0, help="Seconds that a client sleeps in each training.")
    ] = 6.0,
    bound: Annotated[float, typer.Option(min=1, help="Seconds beyond which a run is lost.")] = 120.0,
    only: Annotated[str, typer.Option(help="Keys of the contenders, separated by commas.")] = "",
    fault: Annotated[str, typer.Option(help="Keys of the faults, separated by commas.")] = "",
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """The same faults on Bouquet, stock Flower and NVIDIA FLARE, side by side; always on digits."""
    from bench import data
    from bench.faults import measure as part
    from bench.faults import table
    from bench.faults.case import FAULTS
    from bench.faults.contract import Work

    if quick:
        rounds, fault_round, work_s, bound, fault = 3, 2, 2.0, 60.0, fault or "killed"
    known = [each.key for each in part.contenders()], [each.key for each in FAULTS]
    keys = [key for key in only.split(",") if key], [key for key in fault.split(",") if key]
    for option, chosen, there in zip(("--only", "--fault"), keys, known, strict=True):
        if unknown := set(chosen) - set(there):
            raise BenchError(f"{option}: no {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    if fault_round > rounds:
        raise BenchError(f"--fault-round {fault_round} is after the last of the {rounds} rounds")
    with _workspace() as workspace:
        store = data.store(data.hub_folder(data.DIGITS), clients)
        target = _folder(out)
        found = part.measure(
            Work(store, clients, rounds, work_s, fault_round),
            workspace,
            only=keys[0],
            faults=[each for each in FAULTS if not keys[1] or each.key in keys[1]],
            bound_s=bound,
            echo=_say,
            keep=partial(table.write, folder=target),
        )
    _say(table.markdown(found))
    _say(f"written to {target}")


@app.command()
def examples(
    folder: Annotated[Path, typer.Argument(help="A Flower app, or a folder of them.")],
    clients: Annotated[int, typer.Option(min=2, help="Number of clients.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, where an app has num-server-rounds.")] = 3,
    limit: Annotated[
        float, typer.Option(min=1, help="Seconds that an app may take on each contender.")
    ] = 600.0,
    only: Annotated[str, typer.Option(help="Names of the apps, separated by commas.")] = "",
    containers: Annotated[
        bool, typer.Option("--containers", help="Run each in containers too; needs Docker.")
    ] = False,
    out: Out = RESULTS,
) -> None:
    """Whether other people's apps run, and their seconds per round beside stock Flower."""
    from bench import compose, machine
    from bench.examples import apps, table
    from bench.examples import measure as part

    found, names = apps.find(folder), [name for name in only.split(",") if name]
    if unknown := set(names) - {each.name for each in found}:
        raise BenchError(
            f"--only: no {', '.join(sorted(unknown))}; there are {', '.join(e.name for e in found)}"
        )
    if containers and (reason := compose.missing()):
        raise BenchError(f"--containers: {reason}")
    target = _folder(out)
    with _workspace() as workspace:
        report = part.measure(
            [each for each in found if not names or each.name in names],
            part.Report(folder.name, clients, rounds, machine.describe(), containers),
            workspace,
            limit,
            _say,
            partial(table.write, folder=target),
        )
        for log in workspace.glob("*/*/*.log"):
            (target / "logs" / log.parent.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(log, target / "logs" / log.parent.parent.name / f"{log.parent.name}-{log.name}")
    _say(table.markdown(report))
    _say(f"written to {target}")


@app.command()
def strategies(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of every run.")] = 20,
    clients: Annotated[int, typer.Option(min=2, help="Number of clients.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    only: Annotated[str, typer.Option(help="Strategies, separated by commas.")] = "",
    dataset: Dataset = "",
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Accuracy of five strategies on iid data and on Dirichlet 0.1."""
    from bench import strategies as part

    if quick:
        rounds, seeds = 2, 1
    folder = _data(dataset, 500 * clients if quick else None, 1000 if quick else None)
    with _workspace() as workspace:
        found = part.run(
            folder,
            workspace,
            strategies=[name for name in only.split(",") if name] or part.STRATEGIES,
            clients=clients,
            rounds=rounds,
            seeds=range(42, 42 + seeds),
            echo=_say,
        )
    target = _folder(out)
    part.write(found, target)
    _say(part.markdown(found))
    _say(f"written to {target}")


@contextmanager
def _workspace() -> Iterator[Path]:
    """Scratch directory of one run of the benchmark; it stays where an error says which log in it to read."""
    folder = Path(tempfile.mkdtemp(prefix="bouquet-bench-"))
    keep = False
    try:
        yield folder
    except BenchError as error:
        keep = str(folder) in str(error)
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False)


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
    """The folder of the data set."""
    return _reachable(dataset, train, test)[1]


def _reachable(dataset: str, train: int | None, test: int | None) -> tuple[str, Path]:
    """Name and folder of the data set; `digits`, said aloud, where the default cannot be had."""
    from bench import data

    name = data.chosen(dataset)
    try:
        return name, data.hub_folder(name, train, test)
    except BenchError as error:
        if name != data.HUB_NAME or dataset:
            raise
        _say(f"{error}\nGoing on with scikit-learn's digits: these are not CIFAR-10's figures.")
        return data.DIGITS, data.hub_folder(data.DIGITS, train, test)


def _conclude(part: Any, found: Any, out: Path) -> None:
    """Write what a part of the bench has found, and say it in lines."""
    target = _folder(out)
    part.write(found, target)
    for line in part.lines(found):
        _say(line)
    _say(f"written to {target}")


def _folder(out: Path) -> Path:
    return out / time.strftime("%Y%m%d-%H%M%S")


def main() -> int:
    """Run a command; a problem is one line."""
    end_on_sigterm()
    status: int | None
    try:
        status = app(standalone_mode=False)
    except BenchError as error:
        _say(f"error: {error}")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except Exception as error:
        if type(error).__module__.startswith("click"):
            _say(f"error: {error}")
            return 2
        raise
    if status == INTERRUPTED:  # typer turns Ctrl-C into a status
        _say("interrupted; everything that was started is ended")
    return status or 0


if __name__ == "__main__":
    raise SystemExit(main())
