"""The commands for what people look at: is this machine set up well, and how does the federation do."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from app.cli.identity import control_connection
from app.cli.options import add_command, add_options, echo
from app.environment import Setting, declared, read
from app.errors import UserError
from app.fleet.control import Connection
from app.fleet.deployment import (
    DoctorSettings,
    LogsSettings,
    PrepareSettings,
    QueueSettings,
    StatusSettings,
    SuperLinkSettings,
    SuperNodeSettings,
    UpSettings,
    WatchSettings,
    dotenv,
)

WATCH_S, FOLLOW_S = 2.0, 1.0

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


def watch(settings: WatchSettings) -> None:
    """Look on while a run is under way: one live view on a terminal, else a line a phase. Ctrl-C ends the looking only.

    Run it where the results are: on the SuperLink's host or in its container. It ends when the run does.
    """
    from app.watch.live.follow import watch as follow

    follow(settings.results, settings.run, plain=settings.plain)


_OF_LOGS = declared(LogsSettings)


def logs(
    name: Annotated[str, typer.Argument(help="The client, as `bouquet status` shows it.")],
    lines: Annotated[
        str | None, typer.Option("--lines", "-n", help=f"{_OF_LOGS['lines'].meaning} (default 100)")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help=_OF_LOGS["follow"].meaning)] = False,
    state: Annotated[
        str | None, typer.Option(help=f"{_OF_LOGS['state'].meaning} (BOUQUET_STATE, default state)")
    ] = None,
) -> None:
    """Show the log of a client that shares it (BOUQUET_SHARE_LOGS=on there). Times are the server's, and UTC.

    Run it where the SuperLink's state is: on its host or in its container.
    """
    from app.fleet.fleet_api.told import log_file, names_with_logs

    settings = read(LogsSettings, {"lines": lines, "follow": follow, "state": state})
    file = log_file(settings.state, name)
    if not file.exists():
        known = ", ".join(names_with_logs(settings.state)) or "none"
        raise UserError(
            f"{settings.state} (BOUQUET_STATE) has no log of {name}: it does not share it (BOUQUET_SHARE_LOGS=on there), or "
            f"was not here yet; clients with a log: {known}"
        )
    shown, at = _end_of(file, settings.lines)
    for line in shown:
        echo(line)
    while settings.follow:
        time.sleep(FOLLOW_S)
        at = _echo_from(file, at)


def _end_of(file: Path, count: int) -> tuple[list[str], int]:
    """The last lines of a log, with those of the file before it, and where the file ends."""
    content = file.read_bytes()
    before = file.with_suffix(".log.1")
    lines = content.decode(errors="replace").splitlines()
    if len(lines) < count and before.exists():
        lines = before.read_text(errors="replace").splitlines() + lines
    return lines[-count:], len(content)


def _echo_from(file: Path, at: int) -> int:
    """Print what a log has got since it had ``at`` bytes; how many it has now."""
    if file.stat().st_size < at:  # a new file was begun
        at = 0
    with file.open("rb") as log:
        log.seek(at)
        new = log.read()
    whole = new[: new.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        echo(line)
    return at + len(whole)


@contextmanager
def shown(results: Path, *, plain: bool) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """How a run that a command submits is shown; imported late, because the view imports what draws it."""
    from app.watch.live import follow

    with follow.shown(results, plain=plain) as ways:
        yield ways


_OF_QUEUE = declared(QueueSettings)
Control = Annotated[
    str | None,
    typer.Option(help=f"{_OF_QUEUE['control_address'].meaning} (BOUQUET_CONTROL, default 127.0.0.1:8000)"),
]
Ca = Annotated[str | None, typer.Option(help=f"{_OF_QUEUE['ca'].meaning} (BOUQUET_CA)")]

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
    return control_connection(settings.control_address, settings.ca)


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    app.add_typer(queue, name="queue")
    add_command(app, watch, WatchSettings, example="bouquet watch")
    add_command(app, status, StatusSettings, example="bouquet status --watch --ca server/ca.crt")
    app.command(epilog="Example: bouquet logs client-3 --follow")(logs)
    add_options(
        app,
        doctor,
        _options(),
        example="bouquet doctor --role client --superlink fl.example.org:9092 --ca ca.crt --key node.key",
    )
