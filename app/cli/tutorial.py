"""The commands of the tutorial: see the data, train alone, simulate, and the tour of all of it."""

from dataclasses import dataclass
from pathlib import Path

import typer

from app.cli.data import add_packages, local_data
from app.cli.options import add_command, echo
from app.cli.watch import shown
from app.environment import DATA_VARIABLE, PATH, setting, whole
from app.fleet.deployment import STORE, SimulateSettings


@dataclass(frozen=True)
class PartitionSettings:
    """Whose data is looked at."""

    data: Path = setting(DATA_VARIABLE, "The data store that `bouquet prepare` wrote.", STORE, PATH)
    partition_id: int = setting("", "Whose data.", 0, whole())


@dataclass(frozen=True)
class SamplesSettings(PartitionSettings):
    """What ``bouquet samples`` draws."""

    all_partitions: bool = setting(
        "", "The label distribution of every partition instead.", False, options=("--all",)
    )
    out: Path | None = setting("", "PNG file to write.", None, PATH)


@dataclass(frozen=True)
class CentralizedSettings(PartitionSettings):
    """What ``bouquet centralized`` trains."""

    epochs: int = setting("", "Passes over the data.", 5, whole(1))
    all_data: bool = setting("", "Everybody's data: the upper bound.", False)
    config: str = setting("CONFIG", 'Run-config pairs: "batch-size=64".', "", options=("--config", "-c"))


@dataclass(frozen=True)
class TourSettings:
    """Where ``bouquet tour`` writes."""

    out: Path = setting("", "Folder for pictures and results.", Path("results/tour"), PATH)


def samples(settings: SamplesSettings) -> None:
    """Save a picture of the data: 32 training pictures, or the labels of every partition."""
    from app.learning.data.store import Store
    from app.tutorial import samples as pictures

    store = Store.open(settings.data)
    if settings.all_partitions:
        file = pictures.save_label_distribution(store, settings.out or Path("results/labels.png"))
    else:
        default = Path(f"results/samples-{settings.partition_id}.png")
        file = pictures.save_samples(store, settings.partition_id, settings.out or default)
    echo(f"saved {file}")


def centralized(settings: CentralizedSettings) -> None:
    """One organisation alone: train on one partition, and report the accuracy."""
    from app.learning.data.store import Store
    from app.settings import RunSettings, parse_run_config
    from app.tutorial.centralized import train_alone

    train_alone(
        Store.open(settings.data),
        RunSettings.from_run_config(parse_run_config(settings.config)),
        partition_id=settings.partition_id,
        epochs=settings.epochs,
        all_data=settings.all_data,
        echo=echo,
    )


def simulate(settings: SimulateSettings) -> None:
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
    from app.fleet.local import simulate as simulation
    from app.fleet.runs import submit

    simulation.require_ray()
    project = submit.project_folder(settings.app)
    run_config = submit.run_config_for(project, settings.num_clients, settings.rounds, settings.config)
    add_packages(project)
    data = local_data(settings, project, "in simulation")
    with shown(settings.results, plain=settings.plain) as (say, submitted):
        outcome = simulation.run(settings, data, project, run_config, say, submitted)
    raise typer.Exit(outcome.status)


def tour(settings: TourSettings) -> None:
    """Walk through the tutorial's steps on the embedded digits, in under a minute."""
    from rich.console import Console

    from app.tutorial.tour import Tour

    Tour(settings.out, Console()).walk()


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    add_command(app, samples, SamplesSettings, example="bouquet samples --partition-id 3")
    add_command(app, centralized, CentralizedSettings, example="bouquet centralized --epochs 10 --all-data")
    add_command(
        app, simulate, SimulateSettings, example="bouquet simulate --dataset digits --clients 4 --rounds 2"
    )
    add_command(app, tour, TourSettings, example="bouquet tour --out /tmp/tour")
