"""The commands that list what is set and what is replaced: the deployment's settings, and the patches of Flower."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from app.cli.options import echo
from app.environment import AppEnvironment, Setting, declared, find, options, read, variables
from app.fleet.deployment import KINDS, dotenv

SCHEMA_VERSION = 1


@dataclass
class Row:
    """One setting, as the kinds of processes that have it declare it.

    Attributes:
        variable: its name in the environment and in `.env`; empty for the command line only.
        options: its names on the command line.
        default: by kind of process.
        meaning: one line.
        value: what is set now, as text; None where nothing is.
        place: ``environment`` or ``.env``; empty where nothing is set.
    """

    variable: str
    options: list[str]
    default: dict[str, str]
    meaning: str
    value: str | None = None
    place: str = ""


def rows(environment: Mapping[str, str], in_dotenv: Mapping[str, str]) -> list[Row]:
    """Every setting of every kind of process, each once."""
    found: dict[tuple[str, ...], Row] = {}
    for kind in KINDS:
        for name, of in declared(kind.settings).items():
            names = options(name, of) if kind.has_options else ()
            key = (of.variable,) if of.variable else ("", kind.name, name)
            row = found.setdefault(key, Row(of.variable, [], {}, of.meaning))
            row.options += [option for option in names if option not in row.options]
            row.default[kind.name] = _text(of)
            now = find(name, of, {}, environment, in_dotenv if kind.reads_dotenv else {})
            if now is not None and row.value is None:
                row.value, row.place = str(now.value), now.place
    return list(found.values())


def unknown(in_dotenv: Mapping[str, str], known: list[Row]) -> list[str]:
    """A line for each variable of `.env` that is no setting."""
    names = [row.variable for row in known if row.variable]
    lines = []
    for name in in_dotenv.keys() - set(names):
        close = difflib.get_close_matches(name, names, n=1)
        lines.append(f".env: there is no setting {name}" + (f"; did you mean {close[0]}?" if close else ""))
    return sorted(lines)


def settings(
    as_json: Annotated[bool, typer.Option("--json", help="For programs, with a schema_version.")] = False,
) -> None:
    """List all deployment settings: name, processes, default, meaning, and what is set now and where.

    The command line wins over the environment, and the environment over `.env` in Bouquet's own checkout.
    """
    in_dotenv = dotenv()
    found = rows(variables(), in_dotenv)
    lines = unknown(in_dotenv, found)
    if as_json:
        echo(
            json.dumps(
                {"schema_version": SCHEMA_VERSION, "settings": list(map(asdict, found)), "unknown": lines}
            )
        )
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("setting", "processes", "default", "meaning", "set now")
    for row in found:
        now = "" if row.value is None else f"{row.value} ({row.place})"
        columns: list[Any] = [
            "\n".join(filter(None, [row.variable, ", ".join(row.options)])),
            ", ".join(row.default),
            _defaults(row.default),
            row.meaning,
            now,
        ]
        table.add_row(*map(Text, columns))
    Console().print(table)
    for line in lines:
        echo(f"warning: {line}")


def _text(of: Setting) -> str:
    """A default as a person would write it."""
    return (
        ""
        if of.default is None or of.default is False or of.default in ((), frozenset())
        else str(of.default)
    )


def _defaults(by_kind: Mapping[str, str]) -> str:
    """One default, or each with the kinds of process that have it."""
    values = dict.fromkeys(by_kind.values())
    if len(values) == 1:
        return next(iter(values))
    return "\n".join(
        f"{value or 'none'} ({', '.join(kind for kind, own in by_kind.items() if own == value)})"
        for value in values
    )


def patches(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what is replaced in Flower, what for, and whether it is on here.

    Example: BOUQUET_PATCHES=-long-polls bouquet patches
    """
    from rich.console import Console
    from rich.table import Table

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
    """Add these commands to ``bouquet``."""
    app.command(epilog="Example: bouquet settings --json")(settings)
    app.command(epilog="Example: bouquet patches --json")(patches)
