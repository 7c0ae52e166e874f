"""The commands for what people look at: is this machine set up well, and how does the federation do."""

import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from app.cli.identity import control_connection
from app.cli.options import add_command, add_options, echo
from app.environment import Setting, declared, read
from app.fleet.deployment import (
    DoctorSettings,
    PrepareSettings,
    StatusSettings,
    SuperLinkSettings,
    SuperNodeSettings,
    UpSettings,
    dotenv,
)

WATCH_S = 2.0

# The settings that doctor takes on the command line, from the classes that declare them. All of them it reads from the
# environment, as the processes do.
_TAKEN: tuple[tuple[type, tuple[str, ...]], ...] = (
    (
        SuperNodeSettings,
        ("superlink", "ca", "key", "insecure", "num_clients", "partition_id", "leases", "device"),
    ),
    (SuperLinkSettings, ("fleet_address", "control_port", "certificates", "state")),
    (PrepareSettings, ("dataset", "classes")),
    (UpSettings, ("data", "results")),
)


def doctor(**given: Any) -> None:
    """Look at this machine before a federation runs: settings, disk, memory, engine, network, keys, data, GPU.

    Takes the settings of the SuperLink, the SuperNode and `bouquet prepare`, from the environment or as options. The exit
    status is 0 where all is good, 1 for a wrong set-up, 2 where something is out of reach.
    """
    from app.watch.doctor import report
    from app.watch.doctor.examine import examine, exit_status
    from app.watch.doctor.rules import RULES
    from app.watch.doctor.site import Site

    asked = read(DoctorSettings, given)
    site = Site(asked.role, given, dotenv=dotenv())
    found = examine(site, RULES, lambda rule: rule.quick or not asked.quick)
    if asked.as_json:
        checks = list(found)
        echo(report.as_json(checks, asked.role))
        raise typer.Exit(exit_status(checks))
    checks, phase = [], ""
    for check in found:
        for line in report.as_lines(check, phase, sys.stdout.isatty()):
            echo(line)
        checks.append(check)
        phase = check.rule.phase
    echo(f"\n{report.last_line(checks)}")
    raise typer.Exit(exit_status(checks))


def look(role: str, settings: SuperLinkSettings | SuperNodeSettings | UpSettings) -> None:
    """The quick look that a process takes at its machine when it starts; silent where all is good."""
    from app.watch.doctor.site import Site
    from app.watch.doctor.start import look as look_around

    look_around(Site.of_process(role, settings), lambda line: print(line, file=sys.stderr, flush=True))


def _options() -> dict[str, Setting]:
    """The options of doctor, each as it is declared where it belongs."""
    taken = {name: declared(kind)[name] for kind, names in _TAKEN for name in names}
    return declared(DoctorSettings) | taken


def status(settings: StatusSettings) -> None:
    """Show the clients by name: online, last seen, partition, device, last round, seconds a round, failures.

    Run it where `bouquet members` runs: on the SuperLink's host or in its container. What clients did is that of the latest
    run in the results folder.
    """
    from app.fleet.identity.members import members
    from app.watch import status as seen

    connection = control_connection(settings.control_address, settings.ca)

    def look() -> str:
        run = seen.latest_run(settings.results)
        listed = seen.rows(members(connection), run)
        return (
            seen.as_json(listed, run)
            if settings.as_json
            else f"{seen.headline(run)}\n{seen.as_table(listed)}"
        )

    if not settings.watch:
        echo(look())
    elif sys.stdout.isatty() and not settings.as_json:
        _repaint(look)
    else:
        _print_changes(look)


def _repaint(look: Callable[[], str]) -> NoReturn:
    """Show it in place, on a terminal, until Ctrl-C."""
    from rich.live import Live
    from rich.text import Text

    with Live(Text(look()), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(Text(look()), refresh=True)


def _print_changes(look: Callable[[], str]) -> NoReturn:
    """Print it whenever it has changed, until Ctrl-C."""
    shown = ""
    while True:
        if (text := look()) != shown:
            echo(text)
            shown = text
        time.sleep(WATCH_S)


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    add_command(app, status, StatusSettings, example="bouquet status --watch --ca server/ca.crt")
    add_options(
        app,
        doctor,
        _options(),
        example="bouquet doctor --role client --superlink fl.example.org:9092 --ca ca.crt --key node.key",
    )
