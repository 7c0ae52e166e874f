"""The Compose federation at rest: how long it takes to start, and what its clients cost while they wait.

Memory is each process's proportional set size, summed over the container. Reading it needs the rights of the
container's user, so this part runs as root or not at all.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from bench import compose
from bench.compose import COMPOSE
from bench.environments import ROOT
from bench.processes import BenchError
from bench.watch import Role

SERVICE: dict[str, Role] = {"supernode-cpu": "client", "superlink": "superlink"}
START_TIMEOUT_S = 300.0


class Federation:
    """A Compose project of `clients` CPU clients that has trained, and waits."""

    def __init__(self, project: str, start_s: float) -> None:
        self.project = project
        self.start_s = start_s
        """Seconds from `docker compose up`, data and keys included, until all clients were connected."""

    def members(self) -> dict[Role, list[psutil.Process]]:
        """The living processes of its containers."""
        found: dict[Role, list[psutil.Process]] = {}
        for service, role in SERVICE.items():
            for container in self._lines("docker", "compose", "-p", self.project, "ps", "--quiet", service):
                for pid in self._lines("docker", "top", container, "-o", "pid")[1:]:
                    with suppress(psutil.Error):
                        found.setdefault(role, []).append(psutil.Process(int(pid)))
        return found

    def _lines(self, *command: str) -> list[str]:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return done.stdout.split()


@contextmanager
def started(folder: Path, scratch: Path, clients: int, echo: Callable[[str], None]) -> Iterator[Federation]:
    """Build the images, start a federation on the data set in `folder`, let it train two rounds; remove it afterwards."""
    settings = {"NUM_CLIENTS": str(clients), "ROUNDS": "2", "DATASET_FOLDER": str(folder.resolve())}
    with compose.project(scratch, **settings) as (project, processes):

        def run(name: str, *command: str) -> Iterator[str]:
            return processes.run(name, command, START_TIMEOUT_S, cwd=ROOT)

        echo("building the images")
        compose.build(processes)
        echo(f"starting {clients} containers")
        start, start_s = time.monotonic(), None
        for _ in run("up", *COMPOSE, "up", "--detach", "--scale", f"supernode-cpu={clients}"):
            pass
        for line in run("train", *COMPOSE, "logs", "--follow", "--no-log-prefix", "train"):
            if f"{clients} clients connected" in line:  # Compose puts control characters before it
                start_s = time.monotonic() - start
        if start_s is None:
            raise BenchError(f"the clients never connected; see {scratch / 'train.log'}")
        yield Federation(project, start_s)
