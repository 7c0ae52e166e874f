"""The command ``bouquet``: a table of contents over the package.

bouquet up            ten clients on this machine, as plain processes
bouquet superlink     the server of a federation
bouquet supernode     one client
bouquet train         submit a run and show its progress
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app import cli_identity, cli_learning
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
    prepared_store,
    say,
)
from app.errors import UserError

app = typer.Typer(
    name="bouquet",
    help="Federated learning with Flower and PyTorch on real machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Insecure = Annotated[
    bool, typer.Option("--insecure", help="Plaintext, no node authentication: loopback and tests.")
]


@app.command()
def superlink(
    fleet_address: Annotated[str, typer.Option(help="Where SuperNodes dial in.")] = "0.0.0.0:9092",
    control_port: Annotated[int, typer.Option(help="Port of the Control API on 127.0.0.1.")] = 8000,
    certificates: Annotated[
        Path | None,
        typer.Option(envvar="BOUQUET_CERTIFICATES", help="Folder with ca.crt, server.crt, server.key."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(envvar="BOUQUET_STATE", help="Folder for state that survives a restart.")
    ] = None,
    health_port: Annotated[
        int, typer.Option(envvar="BOUQUET_HEALTH_PORT", help="Port of the gRPC health service; 0 for none.")
    ] = 0,
    insecure: Insecure = False,
) -> None:
    """Run the SuperLink: SuperNodes dial in, the Control API stays on loopback."""
    from app.fleet import superlink as link

    cli_identity.check_transport(insecure, certificates, "--certificates (BOUQUET_CERTIFICATES)")
    link.run(link.SuperLinkSettings(fleet_address, control_port, certificates, state, health_port))


@app.command()
def supernode(
    superlink: Annotated[
        str, typer.Option(envvar="SUPERLINK", help="host:port of the SuperLink.")
    ] = "127.0.0.1:9092",
    ca: Annotated[Path | None, typer.Option(envvar="BOUQUET_CA", help="The federation's ca.crt.")] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            envvar="BOUQUET_NODE_KEY",
            help="This client's private key, or a folder of <partition id>.key files.",
        ),
    ] = None,
    health_port: Annotated[
        int, typer.Option(envvar="BOUQUET_HEALTH_PORT", help="Port of the gRPC health service; 0 for none.")
    ] = 9095,
    insecure: Insecure = False,
) -> None:
    """Run one client: find its partition id, dial the SuperLink, train when asked."""
    from app.fleet import supernode as node

    cli_identity.check_transport(insecure, ca, "--ca (BOUQUET_CA) with --key (BOUQUET_NODE_KEY)")
    health_address = f"0.0.0.0:{health_port}" if health_port else None
    node.serve(os.environ, superlink=superlink, ca=ca, key=key, health_address=health_address)


@app.command()
def train(
    clients: Clients = 10,
    rounds: Rounds = None,
    config: Config = "",
    control_address: Annotated[str, typer.Option(help="host:port of the Control API.")] = "127.0.0.1:8000",
    ca: Annotated[Path | None, typer.Option(envvar="BOUQUET_CA", help="The federation's ca.crt.")] = None,
    project: Project = "",
    results: Annotated[
        Path | None, typer.Option(envvar="BOUQUET_RESULTS", help="Root of the results.")
    ] = None,
) -> None:
    """Submit a run, show its progress, and exit 0 only when it finished."""
    from app.fleet import submit
    from app.rounds.results import record_traffic

    folder = submit.project_folder(project)
    values = submit.run_config_for(folder, clients, rounds, config)
    submit.wait_for_superlink(control_address, submit.CONNECT_TIMEOUT_S)
    submission = submit.Submission(folder, values, control_address, ca)
    outcome = submit.submit(submission, say)
    if results is not None:
        record_traffic(results, outcome.run_id, outcome.bytes_down, outcome.bytes_up)
    raise typer.Exit(0 if outcome.finished else 1)


@app.command()
def up(
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
    fleet_port: Annotated[int, typer.Option(help="Port of the Fleet API; 0 picks a free one.")] = 0,
    control_port: Annotated[int, typer.Option(help="Port of the Control API; 0 picks a free one.")] = 0,
) -> None:
    """Run a whole federation on this machine as plain processes, and take it down again."""
    from app.fleet import launch, submit
    from app.rounds.results import record_traffic

    folder = submit.project_folder(project)
    run_config = submit.run_config_for(folder, clients, rounds, config)
    launch.require_free_ports(fleet_port, control_port)
    data, manifest = prepared_store(
        data, dataset, clients, partitioner=partitioner, alpha=alpha, seed=seed,
        classes_per_partition=classes_per_partition, shards_per_partition=shards_per_partition,
    )  # fmt: skip
    say(f"{clients} clients as plain processes on this machine, {manifest.source} from {data}")
    federation = launch.Federation(clients, data, results, folder, run_config, fleet_port, control_port)
    outcome = launch.run(federation, say)
    record_traffic(results, outcome.run_id, outcome.bytes_down, outcome.bytes_up)
    raise typer.Exit(0 if outcome.finished else 1)


@app.command()
def prepare(
    dataset: Dataset = "",
    out: Annotated[Path, typer.Option(envvar="BOUQUET_DATA", help="Folder of the data store.")] = STORE,
    clients: Clients = 10,
    partitioner: Partitioner = "iid",
    alpha: Alpha = None,
    classes_per_partition: ClassesPerPartition = None,
    shards_per_partition: ShardsPerPartition = None,
    seed: Seed = 42,
    subset: Annotated[str, typer.Option(help="Configuration of a hub data set that has several.")] = "",
    image_column: Annotated[
        str, typer.Option(help="Column of the pictures; found by itself when there is one.")
    ] = "",
    label_column: Annotated[str, typer.Option(help="Column of the labels; found by itself.")] = "",
    image_size: Annotated[int | None, typer.Option(help="Edge in pixels to resize pictures to.")] = None,
    classes: Annotated[
        str, typer.Option(help="Class names in their order, for an own image folder: a,b,c.")
    ] = "",
    tolerance: Annotated[
        int, typer.Option(envvar="TOLERANCE", help="Unreadable pictures that may be left out.")
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a store made otherwise.")] = False,
) -> None:
    """Read a data set once, divide it among the clients, and write the data store."""
    from app.learning.choice import choose_dataset
    from app.learning.prepare import prepare as prepare_store

    manifest = prepare_store(
        choose_dataset(dataset, say), out, num_partitions=clients, partitioner=partitioner, seed=seed, alpha=alpha,
        classes_per_partition=classes_per_partition, shards_per_partition=shards_per_partition,
        subset=subset or None, image_column=image_column or None, label_column=label_column or None,
        image_size=image_size, classes=classes.split(",") if classes else None, tolerance=tolerance, force=force,
    )  # fmt: skip
    say(f"{out}: {manifest.source}, {manifest.num_partitions} partition(s), {manifest.partitioner}")


cli_learning.add_to(app)
cli_identity.add_to(app)


def main() -> Any:
    """Run the command; a mistake the person can mend is one line and status 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
