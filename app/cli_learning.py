"""The commands of the tutorial: see the data, train alone, simulate, and the tour of all of it."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli_options import (
    STORE,
    Alpha,
    ClassesPerPartition,
    Clients,
    Config,
    Dataset,
    Partitioner,
    Prepared,
    Project,
    Results,
    Rounds,
    Seed,
    ShardsPerPartition,
    StoreFolder,
    prepared_store,
    say,
)


def samples(
    data: StoreFolder = STORE,
    partition_id: Annotated[int, typer.Option(help="Whose pictures.", min=0)] = 0,
    all_partitions: Annotated[
        bool, typer.Option("--all", help="The label distribution of every partition instead.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="PNG file to write.")] = None,
) -> None:
    """Save a picture of the data: 32 training pictures, or the labels of every partition."""
    from app.learning import samples as pictures
    from app.learning.store import Store

    store = Store.open(data)
    if all_partitions:
        file = pictures.save_label_distribution(store, out or Path("results/labels.png"))
    else:
        file = pictures.save_samples(store, partition_id, out or Path(f"results/samples-{partition_id}.png"))
    say(f"saved {file}")


def centralized(
    data: StoreFolder = STORE,
    partition_id: Annotated[int, typer.Option(help="Whose data.", min=0)] = 0,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 5,
    all_data: Annotated[bool, typer.Option("--all-data", help="Everybody's data: the upper bound.")] = False,
    config: Config = "",
) -> None:
    """One organisation alone: train on one partition, say how good it gets."""
    from app.learning.centralized import train_alone
    from app.learning.store import Store
    from app.settings import RunSettings, parse_run_config

    settings = RunSettings.from_run_config(parse_run_config(config))
    train_alone(
        Store.open(data), settings, partition_id=partition_id, epochs=epochs, all_data=all_data, say=say
    )


def simulate(
    dataset: Dataset = "",
    partitioner: Partitioner = "iid",
    alpha: Alpha = None,
    classes_per_partition: ClassesPerPartition = None,
    shards_per_partition: ShardsPerPartition = None,
    seed: Seed = 42,
    data: Prepared = None,
    clients: Clients = 10,
    rounds: Rounds = None,
    config: Config = "",
    results: Results = Path("results"),
    project: Project = "",
    control_port: Annotated[int, typer.Option(help="Port of the Control API; 0 picks a free one.")] = 0,
) -> None:
    """Run the same app in Flower's simulation: Ray's workers in place of SuperNodes.

    By hand, with Flower's own command: put this into ~/.flwr/config.toml

    \b
        \\[superlink.simulation]
        address = ":local:"
        options.num-supernodes = 10
        options.backend.client-resources.num-cpus = 1
        options.backend.client-resources.num-gpus = 0.0

    and type, in the project's folder

    \b
        bouquet prepare --out /tmp/store
        export BOUQUET_DATA=/tmp/store BOUQUET_RESULTS=$PWD/results
        export OMP_NUM_THREADS=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
        flwr run . simulation --stream

    Flower then starts a SuperLink that stays, with the environment of that moment; pkill -f -- '--port 39091' ends it.
    """
    from app.fleet import simulate as simulation
    from app.fleet import submit

    simulation.require_ray()
    folder = submit.project_folder(project)
    run_config = submit.run_config_for(folder, clients, rounds, config)
    data, manifest = prepared_store(
        data, dataset, clients, partitioner=partitioner, alpha=alpha, seed=seed,
        classes_per_partition=classes_per_partition, shards_per_partition=shards_per_partition,
    )  # fmt: skip
    say(f"{clients} clients in simulation on this machine, {manifest.source} from {data}")
    outcome = simulation.run(
        simulation.Simulation(clients, data, results, folder, run_config, control_port), say
    )
    raise typer.Exit(0 if outcome.finished else 1)


def tour(
    out: Annotated[Path, typer.Option(help="Folder for pictures and results.")] = Path("results/tour"),
) -> None:
    """Walk through the tutorial's steps on the embedded digits, in under a minute."""
    from rich.console import Console

    from app.tour import Tour

    Tour(out, Console()).walk()


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    app.command()(samples)
    app.command()(centralized)
    app.command()(simulate)
    app.command()(tour)
