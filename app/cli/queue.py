"""The commands that show the queue of runs and take one out of it."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from app.cli.options import echo
from app.environment import declared, read
from app.fleet.control import Connection
from app.fleet.deployment import QueueSettings

_SETTINGS = declared(QueueSettings)
Control = Annotated[
    str | None,
    typer.Option(help=f"{_SETTINGS['control_address'].meaning} (BOUQUET_CONTROL, default 127.0.0.1:8000)"),
]
Ca = Annotated[str | None, typer.Option(help=f"{_SETTINGS['ca'].meaning} (BOUQUET_CA)")]

queue = typer.Typer(invoke_without_command=True, epilog="Example: bouquet queue --json")


@queue.callback()
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    control_address: Control = None,
    ca: Ca = None,
) -> None:
    """Show the runs that are under way and those that wait, in their order."""
    if context.invoked_subcommand is not None:
        context.obj = {"control_address": control_address, "ca": ca}
        return
    from app.fleet.runs import queue as runs

    entries = runs.show(_connection(control_address, ca))
    if as_json:
        echo(json.dumps({"schema_version": 1, "runs": [asdict(entry) for entry in entries]}, indent=2))
        return
    if not entries:
        echo("no run is under way, and none waits")
        return
    echo(f"{'run':20}  {'state':8}  {'place':5}  {'since':19}  app")
    for entry in entries:
        echo(f"{entry.run:20}  {entry.state:8}  {entry.place or '':5}  {entry.since[:19]:19}  {entry.app}")


@queue.command("cancel", epilog="Example: bouquet queue cancel 1234567890")
def cancel(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Its id, as `bouquet queue` shows it.")],
    control_address: Control = None,
    ca: Ca = None,
) -> None:
    """Take a run out of the queue before it begins."""
    from app.fleet.runs import queue as runs

    before = context.obj
    runs.cancel(_connection(control_address or before["control_address"], ca or before["ca"]), run)
    echo(f"run {run} is cancelled")


def _connection(control_address: str | None, ca: str | None) -> Connection:
    settings = read(QueueSettings, {"control_address": control_address, "ca": ca})
    return Connection(settings.control_address, settings.ca)


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    app.add_typer(queue, name="queue")
