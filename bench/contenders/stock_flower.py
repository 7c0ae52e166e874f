"""Stock Flower: the plain app of `bench/stock_flower`, deployed or simulated with Flower's own commands."""

import json
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import httpx

from bench.contenders.contract import Measurement, Workload
from bench.environments import Environment
from bench.processes import BenchError, Processes, free_ports, wait_until

APP = Path(__file__).parent.parent / "stock_flower"
CONNECTION = "bench"
TIMEOUT_PER_ROUND_S = 900.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def command(name: str) -> Path:
    """One of Flower's commands, from the environment that runs the benchmark."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        raise BenchError(f"{name} is not installed beside {sys.executable}")
    return path


def quiet_commands(scratch: Path) -> dict[str, str]:
    """What Flower's own processes must find in their environment: each other, a home of their own, and no calls home."""
    return {
        "FLWR_HOME": str(scratch / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
    }


def flower_env(scratch: Path, workload: Workload) -> dict[str, str]:
    """Environment of Flower's processes: nothing calls home, and nothing of the user's is touched."""
    env = {
        **quiet_commands(scratch),
        # A cache of the benchmark's own, warm after the first run, as a user's would be.
        "HF_HOME": str(workload.workspace / "huggingface"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    if workload.folder.exists():
        env["HF_HUB_OFFLINE"] = "1"
    return env


def submit(processes: Processes, workload: Workload, port: int, extra: Sequence[str] = ()) -> Measurement:
    """Submit the app with `flwr run` and read the time of each round from the ServerApp's output."""
    config = (
        f"num-server-rounds={workload.rounds} num-clients={workload.clients} "
        f'fraction-evaluate={workload.fraction_evaluate} dataset="{workload.folder}" model="{workload.model}"'
    )
    # Built from a copy: `flwr run` leaves files beside the app.
    app = processes.logs / "app"
    shutil.copytree(APP, app, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    submitted = time.monotonic()
    lines = flwr_run(processes, app, port, config, TIMEOUT_PER_ROUND_S * (workload.rounds + 1), extra)
    reports = list(_reports(lines))
    run_s = time.monotonic() - submitted
    if len(reports) != workload.rounds + 1:
        raise BenchError(
            f"the app reported {len(reports) - 1} of {workload.rounds} rounds; see {processes.logs}"
        )
    times = [float(report["time"]) for report in reports]
    return Measurement(
        round_s=[after - before for before, after in pairwise(times)],
        accuracy=float(reports[-1]["accuracy"]),
        run_s=run_s,
    )


def _reports(lines: Iterator[str]) -> Iterator[Mapping[str, float]]:
    for line in lines:
        _, marker, report = line.partition("BENCH ")
        if marker:
            yield json.loads(report)


def serving(port: int) -> bool:
    """Whether the SuperLink's HTTP port answers."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False


def deploy(processes: Processes, clients: int) -> int:
    """Start `flower-superlink` and one `flower-supernode` per client; returns the port for `flwr run`."""
    api, fleet, *node_ports = free_ports(2 + clients)
    processes.start(
        "superlink",
        [
            command("flower-superlink"),
            "--insecure",
            # The app's dependencies are installed already; without this each run calls the registry.
            "--disable-runtime-dependency-installation",
            *("--host", "127.0.0.1", "--port", str(api)),
            *("--fleet-api-address", f"127.0.0.1:{fleet}"),
        ],
    )
    wait_until(lambda: serving(api), "the SuperLink's start", 120)
    for i, port in enumerate(node_ports):
        processes.start(
            f"supernode-{i}",
            [
                command("flower-supernode"),
                "--insecure",
                *("--superlink", f"127.0.0.1:{fleet}"),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--node-config", f"partition-id={i} num-partitions={clients}"),
            ],
        )
    wait_until(lambda: all(map(serving, node_ports)), "the start of all SuperNodes", 300)
    return api


def flwr_run(
    processes: Processes, app: Path, port: int, config: str, limit_s: float, extra: Sequence[str] = ()
) -> Iterator[str]:
    """Submit an app with `flwr run`, and yield the lines of its ServerApp. Raises BenchError as `run` does."""
    home = Path(processes.env["FLWR_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    arguments = [
        "run",
        str(app),
        CONNECTION,
        "--stream",
        *(["--run-config", config] if config else []),
        *extra,
    ]
    return processes.run("flwr-run", [command("flwr"), *arguments], limit_s)


class Deployment:
    """`flower-superlink`, one `flower-supernode` per client, `flwr run`."""

    def __init__(self, one_thread: bool) -> None:
        self.one_thread = one_thread
        self.key = "stock-1t" if one_thread else "stock"
        self.title = "stock Flower, " + ("one thread per client" if one_thread else "as it comes")

    def missing(self, workload: Workload) -> str:
        """Nothing: Flower is always here."""
        return ""

    def measure(self, workload: Workload, scratch: Path) -> Measurement:
        """Deploy, run and take down."""
        env = flower_env(scratch, workload) | (ONE_THREAD if self.one_thread else {})
        started = time.monotonic()
        with Processes(scratch, env) as processes:
            api = deploy(processes, workload.clients)
            measurement = submit(processes, workload, api)
        measurement.command_s = time.monotonic() - started
        return measurement


class Simulation:
    """The same app in Flower's Simulation Engine on Ray.

    As it comes, Flower gives each client two CPUs, so two cores run one client at a time; ``tuned``, one CPU
    and one thread per client keep every core busy.
    """

    def __init__(self, environment: Environment, *, tuned: bool) -> None:
        self.environment = environment
        self.tuned = tuned
        self.key = "ray-tuned" if tuned else "ray"
        how = "one CPU and thread per client" if tuned else "as it comes"
        self.title = f"stock Flower, Ray simulation, {how}"

    def missing(self, workload: Workload) -> str:
        """Ray has no wheels for some Python versions."""
        return self.environment.missing()

    def measure(self, workload: Workload, scratch: Path) -> Measurement:
        """Start a SuperLink in simulation mode, as `flwr run` would by itself, on a free port."""
        env = flower_env(scratch, workload) | {"PYTHONPATH": str(self.environment.site_packages)}
        env |= ONE_THREAD if self.tuned else {}
        env["RAY_USAGE_STATS_ENABLED"] = "0"
        started = time.monotonic()
        with Processes(scratch, env) as processes:
            (api,) = free_ports(1)
            processes.start(
                "superlink",
                [
                    command("flower-superlink"),
                    "--insecure",
                    "--simulation",
                    "--disable-runtime-dependency-installation",
                    *("--host", "127.0.0.1", "--port", str(api)),
                ],
            )
            wait_until(lambda: serving(api), "the SuperLink's start", 120)
            federation = f"num-supernodes={workload.clients}"
            if self.tuned:
                federation += " client-resources-num-cpus=1"
            if _cuda():  # without a share of it, a client sees no GPU
                federation += f" client-resources-num-gpus={1 / workload.clients}"
            measurement = submit(processes, workload, api, ["--federation-config", federation])
        measurement.command_s = time.monotonic() - started
        return measurement


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
