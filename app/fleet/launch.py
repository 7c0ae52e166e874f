"""``bouquet up``: the whole federation as plain processes on loopback, and everything down again."""

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from app.errors import UserError
from app.fleet import cores
from app.fleet.gpus import choose_gpu, visible_gpus
from app.fleet.processes import Processes
from app.fleet.submit import Outcome, Submission, submit, wait_for_superlink
from app.settings import RunValue

START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Federation:
    """A federation of plain processes.

    Attributes:
        clients: number of SuperNodes.
        store: the prepared data store.
        results: root of the results.
        project: the app to run.
        run_config: run-config keys that differ from the app's defaults.
        fleet_port: port of the Fleet API on loopback; 0 picks a free one.
        control_port: port of the Control API on loopback; 0 picks a free one.
    """

    clients: int
    store: Path
    results: Path
    project: Path
    run_config: Mapping[str, RunValue]
    fleet_port: int = 0
    control_port: int = 0


def free_port() -> int:
    """A port of loopback that is free now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def require_free_ports(*ports: int) -> None:
    """Raise UserError for a port of loopback that is taken; 0 stands for any."""
    for port in ports:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise UserError(
                    f"port {port} cannot be used ({error.strerror}); choose another or leave it at 0"
                ) from None


def _bouquet(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", *arguments]


def _interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def run(federation: Federation, say: Callable[[str], None]) -> Outcome:
    """Start a SuperLink and the SuperNodes, train, and take everything down, whatever happens."""
    choose_gpu(os.environ, 0)  # a wrong BOUQUET_DEVICE is said before anything starts
    signal.signal(signal.SIGTERM, _interrupted)
    home = Path(tempfile.mkdtemp(prefix="bouquet-"))
    processes = Processes(federation.results / "logs" / time.strftime("%Y%m%d-%H%M%S"))
    outcome = None
    try:
        with ExitStack() as down:
            down.callback(processes.stop)
            outcome = _run(federation, processes, home, say, down)
        return outcome
    finally:
        shutil.rmtree(home, ignore_errors=True)
        if outcome is None or not outcome.finished:
            say(f"the processes' logs are in {processes.logs}")


def _run(
    federation: Federation, processes: Processes, home: Path, say: Callable[[str], None], down: ExitStack
) -> Outcome:
    fleet_port = federation.fleet_port or free_port()
    control_port = federation.control_port or free_port()
    shared = {
        "BOUQUET_DATA": str(federation.store.resolve()),
        "NUM_CLIENTS": str(federation.clients),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
        ),
    }
    superlink = processes.start(
        "superlink",
        _bouquet(
            "superlink",
            "--insecure",
            "--fleet-address",
            f"127.0.0.1:{fleet_port}",
            "--control-port",
            str(control_port),
        ),
        {
            **shared,
            "BOUQUET_RESULTS": str(federation.results.resolve()),
            "BOUQUET_MODE": os.environ.get("BOUQUET_MODE", "") or "local",
            "FLWR_HOME": str(home / "superlink"),
        },
    )
    # The SuperNodes, and the warm processes that load the app, are forked from processes with this environment.
    os.environ.update(shared, FLWR_HOME=str(home / "flwr"))
    cores.sleep_soon(os.environ)
    gpus = visible_gpus(os.environ)
    if not gpus:
        # What forks must know that no GPU is there (``warm/parent.py``).
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Imports Flower, which the SuperLink does meanwhile as well.
    from app.fleet import replicas

    supernodes = replicas.Replicas(
        cores.threads_per_client(os.environ, federation.clients),
        # On GPUs each client is given its own before it starts.
        warm=not gpus and os.environ.get("BOUQUET_WARM", "1") != "0",
    )
    down.callback(supernodes.stop)
    down.callback(processes.stop)
    environments = {
        f"supernode-{number}": {
            "PARTITION_ID": str(number),
            "BOUQUET_LEASES": str(home / "leases"),
            "BOUQUET_LOCAL_REPLICAS": str(federation.clients),
        }
        for number in range(federation.clients)
    }
    address = f"127.0.0.1:{control_port}"
    wait_for_superlink(address, START_TIMEOUT_S, lambda: superlink.poll() is None)
    os.environ["FLWR_HOME"] = str(home / "submit")

    def watched(line: str) -> None:
        say(line)
        processes.require_running()

    try:
        return submit(
            Submission(federation.project, federation.run_config, address),
            watched,
            lambda: supernodes.start(processes, f"127.0.0.1:{fleet_port}", environments),
        )
    except UserError:
        processes.require_running()  # a SuperLink that has ended is the better reason
        raise
