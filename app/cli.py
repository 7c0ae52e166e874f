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

from app.errors import UserError

app = typer.Typer(
    name="bouquet",
    help="Federated learning with Flower and PyTorch on real machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Clients = Annotated[int, typer.Option("--clients", "-n", envvar="NUM_CLIENTS", min=1, help="Number of clients.")]
Data = Annotated[Path, typer.Option("--data", envvar="BOUQUET_DATA", help="The prepared data store.")]
Rounds = Annotated[int | None, typer.Option("--rounds", "-r", envvar="ROUNDS", min=1, help="Number of rounds.")]
Config = Annotated[str, typer.Option("--config", "-c", envvar="CONFIG", help="Run-config pairs: \"local-epochs=2\".")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Plaintext, no node authentication: loopback and tests.")]


def say(line: str) -> None:
    """Print one line of progress."""
    print(line, flush=True)


@app.command()
def superlink(
    fleet_address: Annotated[str, typer.Option(help="Where SuperNodes dial in.")] = "0.0.0.0:9092",
    control_port: Annotated[int, typer.Option(help="Port of the Control API on 127.0.0.1.")] = 8000,
    certificates: Annotated[
        Path | None, typer.Option(envvar="BOUQUET_CERTIFICATES", help="Folder with ca.crt, server.crt, server.key.")
    ] = None,
    state: Annotated[Path | None, typer.Option(envvar="BOUQUET_STATE", help="Folder for state that survives a restart.")] = None,
    insecure: Insecure = False,
) -> None:
    """Run the SuperLink: SuperNodes dial in, the Control API stays on loopback."""
    from app.fleet import superlink as link

    if insecure == (certificates is not None):
        raise UserError("give either --certificates (BOUQUET_CERTIFICATES) or --insecure")
    link.run(link.SuperLinkSettings(fleet_address, control_port, certificates, state))


@app.command()
def supernode(
    superlink: Annotated[str, typer.Option(envvar="SUPERLINK", help="host:port of the SuperLink.")] = "127.0.0.1:9092",
    ca: Annotated[Path | None, typer.Option(envvar="BOUQUET_CA", help="The federation's ca.crt.")] = None,
    key: Annotated[Path | None, typer.Option(envvar="BOUQUET_NODE_KEY", help="This client's private key, or a folder of <partition id>.key files.")] = None,
    health_port: Annotated[int, typer.Option(envvar="BOUQUET_HEALTH_PORT", help="Port of the gRPC health service; 0 for none.")] = 9095,
    insecure: Insecure = False,
) -> None:
    """Run one client: find its partition id, dial the SuperLink, train when asked."""
    from app.fleet import supernode as node

    if insecure == (ca is not None):
        raise UserError("give either --ca (BOUQUET_CA) with --key (BOUQUET_NODE_KEY), or --insecure")
    settings, partition = node.settings_from(
        os.environ,
        superlink=superlink,
        ca=ca,
        key=key,
        health_address=f"0.0.0.0:{health_port}" if health_port else None,
    )
    say(f"partition-id {partition.id} of {settings.num_partitions} (from {partition.source}), {settings.threads} thread(s)")
    node.run(settings)


@app.command()
def train(
    clients: Clients = 10,
    rounds: Rounds = None,
    config: Config = "",
    control_address: Annotated[str, typer.Option(help="host:port of the Control API.")] = "127.0.0.1:8000",
    ca: Annotated[Path | None, typer.Option(envvar="BOUQUET_CA", help="The federation's ca.crt.")] = None,
    project: Annotated[str, typer.Option(envvar="BOUQUET_PROJECT", help="Folder of the Flower app.")] = "",
) -> None:
    """Submit a run, show its progress, and exit 0 only when it finished."""
    from app.fleet import submit

    values = submit.run_config_for(clients, rounds, config)
    submit.wait_for_superlink(control_address, submit.CONNECT_TIMEOUT_S)
    done = submit.submit(submit.Submission(submit.project_folder(project), values, control_address, ca), say)
    raise typer.Exit(0 if done else 1)


@app.command()
def up(
    data: Data,
    clients: Clients = 10,
    rounds: Rounds = None,
    config: Config = "",
    results: Annotated[Path, typer.Option(envvar="BOUQUET_RESULTS", help="Root of the results.")] = Path("results"),
    project: Annotated[str, typer.Option(envvar="BOUQUET_PROJECT", help="Folder of the Flower app.")] = "",
    fleet_port: Annotated[int, typer.Option(help="Port of the Fleet API; 0 picks a free one.")] = 0,
    control_port: Annotated[int, typer.Option(help="Port of the Control API; 0 picks a free one.")] = 0,
) -> None:
    """Run a whole federation on this machine as plain processes, and take it down again."""
    from app.fleet import launch, submit
    from app.learning.store import Store

    manifest = Store.open(data).manifest
    if manifest.num_partitions != clients:
        raise UserError(
            f"BOUQUET_DATA={data} was made for {manifest.num_partitions} partitions, not NUM_CLIENTS={clients}; prepare it again"
        )
    federation = launch.Federation(
        clients, data, results, submit.project_folder(project), submit.run_config_for(clients, rounds, config),
        fleet_port, control_port,
    )  # fmt: skip
    raise typer.Exit(0 if launch.run(federation, say) else 1)


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
