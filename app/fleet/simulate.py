"""``bouquet simulate``: the same app in Flower's Simulation Engine, where Ray's workers stand in for SuperNodes.

``flwr run . simulation`` does the same, with a SuperLink that Flower starts for itself and leaves running,
and the files in its home folder. Here all of that is started for one run and gone after it.
"""

import importlib.util
import math
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.errors import UserError
from app.fleet import flower
from app.fleet.cores import available_cores
from app.fleet.launch import START_TIMEOUT_S, free_port, require_free_ports
from app.fleet.processes import Processes
from app.fleet.submit import Outcome, Submission, control, submit, wait_for_superlink
from app.settings import RunValue

# Ray's sockets lie 66 characters below its folder, and a socket's path may have 107.
LONGEST_TEMPORARY = 40
# What Flower says around every simulation, whatever its size.
NOISE = (
    "Starting Flower Simulation",
    "Successfully installed",
    "Manually terminating ClientAppActor",
    "Since flwr 1.32",
    "simulated SuperNodes)",
    "To change federation size",
    "flwr federation simulation-config",
)


@dataclass(frozen=True)
class Simulation:
    """A simulated federation.

    Attributes:
        clients: number of simulated SuperNodes.
        store: the prepared data store.
        results: root of the results.
        project: the app to run.
        run_config: run-config keys that differ from the app's defaults.
        control_port: port of the Control API on loopback; 0 picks a free one.
    """

    clients: int
    store: Path
    results: Path
    project: Path
    run_config: Mapping[str, RunValue]
    control_port: int = 0


@dataclass(frozen=True)
class Resources:
    """What Ray deals out: all it may use, and a client's share of the GPUs. A client has one core."""

    cores: int
    gpus: int
    gpus_per_client: float


def require_ray() -> None:
    """Raise UserError where Ray, which the simulation runs on, is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("the simulation needs Ray, which is not installed: pip install 'bouquet[simulation]'")


def resources(clients: int, cores: int, gpus: int) -> Resources:
    """One core for each client that trains at the same time, and an equal share of the GPUs.

    Ray starts a worker for every core that it gets, so more cores than clients would only cost memory.
    """
    at_once = min(clients, cores)
    if gpus == 0:
        return Resources(at_once, 0, 0.0)
    # A share lies on one GPU. Ray counts in steps of 0.0001; one step less, because Flower divides by the share as a
    # float32, and 1 / 0.1 is then 9.
    on_one = math.ceil(at_once / gpus)
    return Resources(at_once, gpus, 1.0 if on_one == 1 else (10_000 // on_one - 1) / 10_000)


def visible_gpus(environment: Mapping[str, str]) -> int:
    """The GPUs that the clients may use: none with ``BOUQUET_DEVICE=cpu``.

    Raises:
        UserError: a GPU was asked for and there is none, or a certain one: Ray deals them out.
    """
    wanted = environment.get("BOUQUET_DEVICE") or "auto"
    if wanted == "cpu":
        return 0
    if wanted.startswith("cuda:"):
        raise UserError(
            f"BOUQUET_DEVICE={wanted}: in a simulation Ray deals out the GPUs; "
            f"set CUDA_VISIBLE_DEVICES={wanted[5:]} and leave BOUQUET_DEVICE out"
        )
    import torch

    count = torch.cuda.device_count()
    if wanted == "cuda" and count == 0:
        raise UserError("BOUQUET_DEVICE=cuda: no GPU is visible; use cpu or auto")
    return count


def run(simulation: Simulation, say: Callable[[str], None]) -> Outcome:
    """Run the app in simulation and take everything down, whatever happens.

    Raises:
        UserError: Ray is missing, the port is taken, or the SuperLink ended.
    """
    require_ray()
    require_free_ports(simulation.control_port)
    given = resources(simulation.clients, available_cores(), visible_gpus(os.environ))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    roomy = len(tempfile.gettempdir()) <= LONGEST_TEMPORARY
    home = Path(tempfile.mkdtemp(prefix="bouquet-", dir=None if roomy else "/tmp"))
    processes = Processes(simulation.results / "logs" / time.strftime("%Y%m%d-%H%M%S"))
    outcome = None
    try:
        outcome = _run(simulation, given, processes, home, say)
        return outcome
    finally:
        processes.stop()
        shutil.rmtree(home, ignore_errors=True)
        if outcome is None or not outcome.finished:
            say(f"the SuperLink's log is in {processes.logs}")


def _run(
    simulation: Simulation, given: Resources, processes: Processes, home: Path, say: Callable[[str], None]
) -> Outcome:
    flower.prepare_environment()
    port = simulation.control_port or free_port()
    superlink = processes.start(
        "superlink",
        [
            "flower-superlink", "--simulation", "--insecure", "--host", "127.0.0.1", "--port", str(port),
            "--disable-runtime-dependency-installation",
        ],
        environment(simulation, home),
    )  # fmt: skip
    address = f"127.0.0.1:{port}"
    wait_for_superlink(address, START_TIMEOUT_S, lambda: superlink.poll() is None)
    os.environ["FLWR_HOME"] = str(home / "submit")
    _configure(address, simulation.clients, given)

    def watched(line: str) -> None:
        if line.startswith("error: ") or not any(words in line for words in NOISE):
            say(line)
        processes.require_running()

    return submit(Submission(simulation.project, simulation.run_config, address), watched)


def environment(simulation: Simulation, home: Path) -> dict[str, str]:
    """What the SuperLink hands down to the simulation and to Ray's workers."""
    package = str(Path(__file__).resolve().parents[2])
    return {
        "BOUQUET_DATA": str(simulation.store.resolve()),
        "BOUQUET_RESULTS": str(simulation.results.resolve()),
        "BOUQUET_MODE": os.environ.get("BOUQUET_MODE", "") or "simulation",
        "FLWR_HOME": str(home / "flwr"),
        # Asked once for the whole run; more often would only cost the clients' time.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")])),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as Ray wants it set; it warns otherwise
        "RAY_ADDRESS": "local",  # never a cluster that happens to run here
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _configure(address: str, clients: int, given: Resources) -> None:
    """Tell the SuperLink the size of the simulation, as ``flwr federation simulation-config`` does."""
    from flwr.proto.control_pb2 import ConfigureSimulationFederationRequest
    from flwr.proto.federation_config_pb2 import SimulationConfig

    with control(address, None) as client:
        client.ConfigureSimulationFederation(
            ConfigureSimulationFederationRequest(
                config=SimulationConfig(
                    num_supernodes=clients,
                    client_resources_num_cpus=1,
                    client_resources_num_gpus=given.gpus_per_client,
                    init_args_num_cpus=given.cores,
                    init_args_num_gpus=given.gpus,
                )
            )
        )
