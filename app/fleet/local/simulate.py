"""``bouquet simulate``: the same app in Flower's Simulation Engine, where Ray's workers stand in for SuperNodes.

``flwr run . simulation`` does the same, but Flower then starts a SuperLink of its own, leaves it running, and leaves
files in its home folder. Here the SuperLink and the files exist for one run only.
"""

import importlib.util
import math
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.environment import Device
from app.errors import UserError
from app.fleet import flower
from app.fleet.control import Connection, control
from app.fleet.deployment import PACKAGE, SimulateSettings
from app.fleet.host import ports
from app.fleet.host.cores import available_cores
from app.fleet.host.processes import Processes
from app.fleet.local import simulation_superlink
from app.fleet.local.launch import START_TIMEOUT_S, Data, launch
from app.fleet.patches import tables
from app.fleet.patches.registry import check_switches
from app.fleet.runs.submit import Outcome, Submission, submit, wait_for_control_api
from app.settings import RunValue

# Lines that Flower logs for every simulation.
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
class Resources:
    """The cores and GPUs that Ray may use, and the share of a GPU that a client gets. A client has one core."""

    cores: int
    gpus: int
    gpus_per_client: float


def require_ray() -> None:
    """Raise UserError where Ray, which the simulation runs on, is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("the simulation needs Ray, which is not installed: pip install 'bouquet[simulation]'")


def resources(num_clients: int, cores: int, gpus: int) -> Resources:
    """One core for each client that trains at the same time, and an equal share of the GPUs.

    Ray starts a worker for every core that it gets, so more cores than clients would only cost memory.
    """
    at_once = min(num_clients, cores)
    if gpus == 0:
        return Resources(at_once, 0, 0.0)
    # A share lies on one GPU. Ray counts in steps of 0.0001. We take one step less, because Flower divides by the share
    # as a float32, and 1 / 0.1 is then 9.
    on_one = math.ceil(at_once / gpus)
    return Resources(at_once, gpus, 1.0 if on_one == 1 else (10_000 // on_one - 1) / 10_000)


def visible_gpus(device: Device) -> int:
    """The number of GPUs that the clients may use: none on the CPU.

    Raises:
        UserError: a GPU was asked for and there is none, or a certain one: Ray deals them out.
    """
    if device.kind == "cpu":
        return 0
    if device.number is not None:
        raise UserError(
            f"BOUQUET_DEVICE={device}: in a simulation Ray deals out the GPUs; "
            f"set CUDA_VISIBLE_DEVICES={device.number} and leave BOUQUET_DEVICE out"
        )
    import torch

    count = torch.cuda.device_count()
    device.choose(count, 0)
    return count


def run(
    settings: SimulateSettings,
    data: Data,
    project: Path,
    run_config: Mapping[str, RunValue],
    echo: Callable[[str], None],
    submitted: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Run the app in simulation and take everything down, whatever happens.

    Args:
        settings: how the federation is simulated.
        data: what it learns from.
        project: the app to run.
        run_config: run-config keys that differ from the app's defaults.
        echo: takes each line for the person.
        submitted: called with Flower's id of the run when it has been submitted.

    Raises:
        UserError: Ray is missing, the port is taken, or the SuperLink ended.
    """
    require_ray()
    ports.require_free("--control-port", settings.control_port)
    given = resources(settings.num_clients, available_cores(), visible_gpus(settings.device))
    check_switches(settings.patches, tables.NAMES)
    address = f"127.0.0.1:{settings.control_port or ports.free_port()}"
    with launch(settings.results, echo) as this:
        flower.prepare_environment({"FLWR_HOME": str(this.home / "submit")})
        _start(address, _variables(settings, data, this.home), this.processes)
        _configure(address, settings.num_clients, given)

        def watched(line: str) -> None:
            if line.startswith("error: ") or not any(words in line for words in NOISE):
                echo(line)
            this.processes.require_running()

        this.outcome = submit(Submission(project, run_config, address), watched, submitted)
        return this.outcome


def _start(address: str, variables: Mapping[str, str], processes: Processes) -> None:
    """Start Flower's SuperLink with its simulation, and wait until it answers."""
    host, port = ports.split(address)
    command = [
        sys.executable, "-m", simulation_superlink.__name__, "--simulation", "--insecure",
        "--host", host, "--port", str(port), "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    superlink = processes.start("superlink", command, variables)
    wait_for_control_api(address, START_TIMEOUT_S, lambda: superlink.poll() is None)


def _variables(settings: SimulateSettings, data: Data, home: Path) -> dict[str, str]:
    """The variables that the SuperLink passes on to the simulation and to Ray's workers."""
    return data.variables() | {
        "BOUQUET_DEVICE": str(settings.device),
        "BOUQUET_RESULTS": str(settings.results.resolve()),
        "BOUQUET_MODE": settings.mode or "simulation",
        "BOUQUET_PATCHES": settings.patches,
        "FLWR_HOME": str(home / "flwr"),
        # The question comes once in a run. Asking more often would cost the clients' time.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": flower.python_path(PACKAGE),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as Ray wants it set; it warns otherwise
        # Ray listens on all of this machine's addresses, and serves whoever knows the token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ADDRESS": "local",  # not a cluster that runs here for something else
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _configure(address: str, num_clients: int, given: Resources) -> None:
    """Tell the SuperLink the size of the simulation, as ``flwr federation simulation-config`` does."""
    from flwr.proto.control_pb2 import ConfigureSimulationFederationRequest
    from flwr.proto.federation_config_pb2 import SimulationConfig

    with control(Connection(address)) as client:
        client.ConfigureSimulationFederation(
            ConfigureSimulationFederationRequest(
                config=SimulationConfig(
                    num_supernodes=num_clients,
                    client_resources_num_cpus=1,
                    client_resources_num_gpus=given.gpus_per_client,
                    init_args_num_cpus=given.cores,
                    init_args_num_gpus=given.gpus,
                )
            )
        )
