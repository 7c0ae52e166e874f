"""Options that several commands share, under the names that Compose and Kubernetes use as well."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.errors import UserError

if TYPE_CHECKING:
    from app.learning.store import Manifest

Clients = Annotated[
    int, typer.Option("--clients", "-n", envvar="NUM_CLIENTS", min=1, help="Number of clients.")
]
Rounds = Annotated[
    int | None, typer.Option("--rounds", "-r", envvar="ROUNDS", min=1, help="Number of rounds.")
]
Config = Annotated[
    str, typer.Option("--config", "-c", envvar="CONFIG", help='Run-config pairs: "local-epochs=2".')
]
Dataset = Annotated[
    str,
    typer.Option(
        envvar="DATASET",
        help="Hub name, folder, own image folder, or digits. Default: CIFAR-10, else digits.",
    ),
]
Partitioner = Annotated[
    str, typer.Option(envvar="PARTITIONER", help="iid, dirichlet, pathological, shard, linear, ...")
]
Alpha = Annotated[float | None, typer.Option(envvar="ALPHA", help="dirichlet: the smaller, the more uneven.")]
ClassesPerPartition = Annotated[
    int | None, typer.Option(envvar="CLASSES_PER_PARTITION", help="pathological.")
]
ShardsPerPartition = Annotated[int | None, typer.Option(envvar="SHARDS_PER_PARTITION", help="shard.")]
Seed = Annotated[
    int, typer.Option(envvar="DATA_SEED", min=0, help="Seed of the partitioning and the 80/20 split.")
]
StoreFolder = Annotated[
    Path, typer.Option("--data", envvar="BOUQUET_DATA", help="The data store that `bouquet prepare` wrote.")
]
STORE = Path(".bouquet") / "data" / "store"
Project = Annotated[str, typer.Option(envvar="BOUQUET_PROJECT", help="Folder of the Flower app.")]
Results = Annotated[Path, typer.Option(envvar="BOUQUET_RESULTS", help="Root of the results.")]
Prepared = Annotated[
    Path | None, typer.Option(envvar="BOUQUET_DATA", help="A prepared data store, in place of --dataset.")
]


def say(line: str) -> None:
    """Print one line of progress."""
    print(line, flush=True)


def prepared_store(
    given: Path | None, dataset: str, clients: int, **settings: Any
) -> "tuple[Path, Manifest]":
    """The data store to train on: the one given, else one prepared for ``dataset`` under ``.bouquet/data``.

    Raises:
        UserError: the data cannot be read, or the store given is for another number of clients.
    """
    from app.learning.choice import choose_dataset, prepare_by_name
    from app.learning.store import Store

    folder = given or prepare_by_name(
        choose_dataset(dataset, say), Path(".bouquet") / "data", num_partitions=clients, **settings
    )
    manifest = Store.open(folder).manifest
    if manifest.partitioner == "none":
        if clients > 1:
            say(
                f"warning: {manifest.source} is one client's own data: each of the {clients} clients trains on all of it; "
                "to divide it, move its class folders into a folder `train` of it"
            )
    elif manifest.num_partitions != clients:
        raise UserError(
            f"BOUQUET_DATA={folder} was made for {manifest.num_partitions} partitions, "
            f"not NUM_CLIENTS={clients}; prepare it again"
        )
    return folder, manifest
