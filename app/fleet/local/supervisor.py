"""Who starts a part of a local federation again when it has died, as systemd and Compose do elsewhere."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from app.errors import WRONG_INPUT, UserError
from app.fleet.host.processes import Processes

LOOK_S = 0.5
MOST_DEATHS = 3  # of one process in a row
LIVED_S = 60.0  # a process that lived so long begins the count anew
PAUSE_S = 1.0  # before the first new start; doubled for each further one


@dataclass
class Supervisor:
    """Watches processes in a thread of its own.

    Attributes:
        processes: those that are watched.
        restart: starts the process of this name again.
        echo: takes each line for the person.
        latest: how the last process ended that did.
        error: why it has given up; SIGTERM interrupts the main thread then (``launch``).
    """

    processes: Processes
    restart: Callable[[str], None]
    echo: Callable[[str], None]
    latest: str = ""
    error: UserError | None = None
    _born: dict[str, float] = field(default_factory=dict)
    _deaths: dict[str, int] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; afterwards nothing is started."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_S):
            try:
                for name, status in self.processes.ended().items():
                    self._revive(name, status)
            except UserError as error:
                self.error = error
                os.kill(os.getpid(), signal.SIGTERM)  # not SIGINT, which a shell's background ignores
                return

    def _revive(self, name: str, status: int) -> None:
        """Start a process again. Raises UserError where it has died too often."""
        self.latest = reason = self.processes.why_ended(name, status)
        lived = time.monotonic() - self._born.get(name, 0.0)
        self._deaths[name] = 1 if lived > LIVED_S else self._deaths.get(name, 0) + 1
        if status == WRONG_INPUT:  # a new start would meet it again
            raise UserError(reason)
        if self._deaths[name] >= MOST_DEATHS:
            raise UserError(f"{reason} ({self._deaths[name]} times in a row)")
        self.echo(f"{reason}; it is started again")
        if not self._stopped.wait(PAUSE_S * 2 ** (self._deaths[name] - 1)):
            self._born[name] = time.monotonic()
            self.restart(name)
