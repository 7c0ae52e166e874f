"""The runs of a SuperLink that wait or are under way.

Flower keeps a submitted run as pending until its ServerApp is started, which ``serverapp/superexec.py`` does for so many at
once. When the SuperLink is lost, so are its runs, and each ``bouquet train`` submits its own again.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import UserError
from app.fleet.control import Connection, control

if TYPE_CHECKING:
    from flwr.proto.run_pb2 import Run
    from flwr.supercore.control import ControlHttpClient

PENDING, FINISHED = "pending", "finished"
SOON_S, LOOK_S = 3.0, 0.2


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        run: its id, as Flower shows it.
        app: publisher and name of its app.
        state: ``pending``, ``starting`` or ``running``.
        place: in the queue, from 1; 0 for one that has begun.
        since: when it was submitted (UTC, ISO 8601).
    """

    run: str
    app: str
    state: str
    place: int
    since: str


def entries(runs: Iterable["Run"]) -> list[Entry]:
    """Those that have begun, and then those that wait, in the order in which they were submitted."""
    left = [run for run in runs if run.status.status != FINISHED]
    left.sort(key=lambda run: (run.status.status == PENDING, run.pending_at))
    begun = sum(run.status.status != PENDING for run in left)
    return [
        Entry(str(run.run_id), run.fab_id, run.status.status, max(0, number - begun), run.pending_at)
        for number, run in enumerate(left, 1)
    ]


def look(client: "ControlHttpClient") -> list[Entry]:
    """The queue of the SuperLink."""
    from flwr.proto.control_pb2 import ListRunsRequest

    return entries(client.ListRuns(ListRunsRequest()).run_dict.values())


def states(client: "ControlHttpClient") -> list[str]:
    """The state of each run that the SuperLink has; of those that have ended, how: ``completed``, ``failed``, ``stopped``."""
    from flwr.proto.control_pb2 import ListRunsRequest

    runs = client.ListRuns(ListRunsRequest()).run_dict.values()
    return [run.status.sub_status or run.status.status for run in runs]


def show(connection: Connection) -> list[Entry]:
    """The queue of the SuperLink at ``connection``."""
    with control(connection) as client:
        return look(client)


def cancel(connection: Connection, run: str) -> None:
    """Take a run out of the queue. Raises UserError where it does not wait there."""
    from flwr.proto.control_pb2 import StopRunRequest

    with control(connection) as client:
        found = {entry.run: entry for entry in look(client)}
        if run not in found:
            raise UserError(
                f"there is no run {run!r} in the queue; `bouquet queue` shows those that there are"
            )
        if not found[run].place:
            raise UserError(
                f"run {run} has begun and is {found[run].state}; stop it where it was submitted, with Ctrl-C, "
                "or with `flwr stop`"
            )
        client.StopRun(StopRunRequest(run_id=int(run)))


def wait(client: "ControlHttpClient", run_id: int, echo: Callable[[str], None]) -> None:
    """Wait until a run has begun or was cancelled, and tell its place in the queue where that is not soon."""
    begun, told = time.monotonic(), 0
    while place := next((entry.place for entry in look(client) if entry.run == str(run_id)), 0):
        if place != told and time.monotonic() - begun > SOON_S:
            echo(f"run {run_id} waits in the queue, at place {place} (`bouquet queue`)")
            told = place
        time.sleep(LOOK_S)
