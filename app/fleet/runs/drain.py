"""``bouquet drain``: finish what is under way, begin nothing, and say when the server can be stopped."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.environment import DRAIN
from app.errors import UserError
from app.fleet.control import Connection, control
from app.fleet.deployment import DrainSettings

if TYPE_CHECKING:
    from flwr.supercore.control import ControlHttpClient

LOOK_S = 1.0


def drain(settings: DrainSettings, echo: Callable[[str], None]) -> None:
    """Ask Bouquet's run to end after its round, and wait until no run is under way.

    A SuperLink that starts takes the request back. Raises UserError where the results folder cannot be written.
    """
    request = settings.results / DRAIN
    if settings.off:
        request.unlink(missing_ok=True)
        echo("rounds are begun again")
        return
    with control(Connection(settings.control_address, settings.ca)) as client:
        if settings.after_run:
            _wait(client, echo, "this run is finished")
        try:
            request.touch()
        except OSError as error:
            raise UserError(
                f"{request} cannot be written ({error.strerror}): run this where the SuperLink's results are"
            ) from None
        _wait(client, echo, "this round is finished")
    echo("safe to stop: no run is under way, and no round is begun before the SuperLink is started again")


def _wait(client: "ControlHttpClient", echo: Callable[[str], None], until: str) -> None:
    """Wait until no run is under way, and say so once."""
    from flwr.proto.control_pb2 import ListRunsRequest

    told = False
    while any(
        run.status.status != "finished" for run in client.ListRuns(ListRunsRequest()).run_dict.values()
    ):
        if not told:
            echo(f"waiting until {until}")
            told = True
        time.sleep(LOOK_S)
