"""The command that shows what is replaced in Flower."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.environment import AppEnvironment, read
from app.fleet.deployment import dotenv


def patches(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what is replaced in Flower, what for, and whether it is on here.

    Example: BOUQUET_PATCHES=-long-polls bouquet patches
    """
    from app.fleet.patches import tables
    from app.fleet.patches.registry import check_switches

    switches = read(AppEnvironment, dotenv=dotenv()).patches
    check_switches(switches, tables.NAMES)
    if as_json:
        print(tables.as_json(switches))
        return
    table = Table("name", "process", "what for", "without it", "state")
    table.columns[0].no_wrap = True
    for row in tables.rows(switches):
        state = "on" if row["on"] else f"off: {row['reason']}"
        name = f"{row['name']} (required)" if row["required"] else row["name"]
        table.add_row(name, row["process"], row["purpose"], row["without"], state)
    Console().print(table)


def add_to(app: typer.Typer) -> None:
    """Add this command to ``bouquet``."""
    app.command(epilog="Example: bouquet patches --json")(patches)
