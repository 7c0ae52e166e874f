"""The commands for what people look at: is this machine set up well, and how does the federation do."""

import sys
from typing import Any

import typer

from app.cli.options import add_options, echo
from app.environment import Setting, declared, read
from app.fleet.deployment import (
    DoctorSettings,
    PrepareSettings,
    SuperLinkSettings,
    SuperNodeSettings,
    UpSettings,
    dotenv,
)

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


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    add_options(
        app,
        doctor,
        _options(),
        example="bouquet doctor --role client --superlink fl.example.org:9092 --ca ca.crt --key node.key",
    )
