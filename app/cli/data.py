"""The command that prepares the data, and the data store that other commands prepare for themselves."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from app.cli.options import add_command, echo
from app.errors import UserError, printable
from app.fleet.deployment import PACKAGE, DataSettings, LocalSettings, PrepareSettings

if TYPE_CHECKING:
    from app.fleet.local.launch import Data
    from app.learning.data.prepare import Request
    from app.learning.data.store import Manifest

PREPARED = Path(".bouquet") / "data"  # the stores that are prepared by name


def prepare(settings: PrepareSettings) -> None:
    """Read a data set once, divide it among the clients, and write the data store."""
    from app.fleet.runs.submit import is_own_app, project_folder
    from app.learning.data.prepare import prepare as prepare_store

    project = project_folder(settings.app)
    if not settings.source and project != PACKAGE and not is_own_app(project):
        echo(f"no data set is prepared: the app in {project} is not Bouquet's, and DATASET names none")
        return
    request = replace(
        _request(settings),
        subset=settings.subset or None,
        image_column=settings.image_column or None,
        label_column=settings.label_column or None,
        image_size=settings.image_size,
        classes=settings.classes.split(",") if settings.classes else None,
        tolerance=settings.tolerance,
    )
    manifest = prepare_store(request, settings.out, force=settings.force)
    source = printable(manifest.source)
    echo(f"{settings.out}: {source}, {manifest.num_partitions} partition(s), {manifest.partitioner}")


def _request(settings: DataSettings) -> "Request":
    """What the settings ask for; without a data set the default, which may depend on the network."""
    from app.learning.data.choice import choose_dataset
    from app.learning.data.prepare import Request

    return Request(
        choose_dataset(settings.source, echo),
        num_partitions=settings.num_clients,
        partitioner=settings.partitioner,
        seed=settings.seed,
        alpha=settings.alpha,
        classes_per_partition=settings.classes_per_partition,
        shards_per_partition=settings.shards_per_partition,
    )


def add_packages(project: Path) -> None:
    """Let this process and its children import what another app asks for; what is not here is added first."""
    from app.fleet.dependencies import environment
    from app.fleet.runs import bundle, submit

    if not submit.is_own_app(project) and (folder := environment.make(bundle.manifest(project), echo)):
        environment.use(folder)


def local_data(settings: LocalSettings, project: Path, how: str) -> "Data":
    """The data that a federation on this machine trains on; says where it runs, and on what.

    An app that is not Bouquet's gets what was asked for: a folder or a file as it is, a name as a data store, else nothing.
    """
    from app.fleet.local.launch import Data
    from app.fleet.runs.submit import is_own_app

    where = f"{settings.num_clients} clients {how} on this machine"
    if not is_own_app(project) and not settings.data:
        source = settings.dataset_path or Path(settings.source)
        if not (settings.dataset_path or settings.source):
            echo(f"{where}, the app in {project}")
            return Data()
        if source.exists():
            echo(f"{where}, the app in {project} with {source}")
            return Data(dataset=source.absolute())
    store, manifest = prepared_store(settings)
    echo(f"{where}, {manifest.source} from {store}")
    return Data(store.resolve())


def prepared_store(settings: LocalSettings) -> "tuple[Path, Manifest]":
    """The data store to train on: the one given, else one prepared under ``.bouquet/data``.

    Raises:
        UserError: the data cannot be read, or the store given is for another number of clients.
    """
    from app.learning.data.choice import prepare_by_name
    from app.learning.data.store import Store

    folder = settings.data or prepare_by_name(_request(settings), PREPARED)
    manifest = Store.open(folder).manifest
    if manifest.partitioner == "none":
        if settings.num_clients > 1:
            echo(
                f"warning: {manifest.source} is one client's own data: each of the {settings.num_clients} clients "
                "trains on all of it; to divide it, move its class folders into a folder `train` of it"
            )
    elif manifest.num_partitions != settings.num_clients:
        raise UserError(
            f"BOUQUET_DATA={folder} was made for {manifest.num_partitions} partitions, "
            f"not NUM_CLIENTS={settings.num_clients}; prepare it again"
        )
    return folder, manifest


def add_to(app: typer.Typer) -> None:
    """Add this command to ``bouquet``."""
    add_command(
        app, prepare, PrepareSettings, example="bouquet prepare --dataset digits --clients 4 --out /tmp/store"
    )
