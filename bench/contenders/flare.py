"""NVIDIA FLARE: a server and ten client processes over gRPC with TLS; the clients stay alive."""

import json
import os
import shutil
import time
from pathlib import Path

from bench.contenders.contract import Measurement, Workload
from bench.contenders.stock_flower import ONE_THREAD, TIMEOUT_PER_ROUND_S
from bench.environments import ROOT, Environment
from bench.processes import BenchError, Processes, free_ports


def missing(environment: Environment) -> str:
    """Why FLARE cannot run here; empty when it can. It is an extra of the benchmark: installed on first use."""
    if shutil.which("bash") is None:
        return "FLARE's start-up kits need bash"
    return environment.missing()


def variables(
    environment: Environment, scratch: Path, store: Path, model: str, clients: int, evaluating: int
) -> dict[str, str]:
    """The environment of FLARE's processes; makes their home folder."""
    home = scratch / "home"  # FLARE writes a config directory there
    home.mkdir(parents=True, exist_ok=True)
    manifest = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
    return ONE_THREAD | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{environment.path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        # Names are those of bench/flare/local_work.py, which needs torch and is not imported here.
        "BOUQUET_BENCH_STORE": str(store),
        "BOUQUET_BENCH_MODEL": model,
        "BOUQUET_BENCH_CLIENTS": str(clients),
        "BOUQUET_BENCH_EVALUATING": str(evaluating),
        "BOUQUET_BENCH_SHAPE": ",".join(map(str, [*manifest["shape"], len(manifest["classes"])])),
    }


class Flare:
    """FLARE's FedAvg with one thread per client: its recipe as it comes, or with its polls tuned."""

    def __init__(self, environment: Environment, tuned: bool) -> None:
        self.environment = environment
        self.tuned = tuned
        self.key = "flare-tuned" if tuned else "flare"
        self.title = "NVIDIA FLARE, one thread per client" + (
            ", polls tuned" if tuned else ", recipe as it comes"
        )

    def missing(self, workload: Workload) -> str:
        """Why it cannot run here; empty when it can."""
        return missing(self.environment)

    def measure(self, workload: Workload, scratch: Path) -> Measurement:
        """Provision, start, submit, take down."""
        env = variables(
            self.environment,
            scratch,
            workload.store,
            workload.model,
            workload.clients,
            workload.evaluating_clients,
        )
        started = time.monotonic()
        with Processes(scratch, env) as processes:
            command: list[str | Path] = [
                *(self.environment.python, "-m", "bench.flare.federation"),
                *("--workspace", scratch, "--port", str(free_ports(1)[0])),
                *("--clients", str(workload.clients), "--rounds", str(workload.rounds)),
                *(["--tuned"] if self.tuned else []),
            ]
            result = {}
            for line in processes.run(
                "flare", command, TIMEOUT_PER_ROUND_S * (workload.rounds + 1), cwd=ROOT
            ):
                if line.startswith("{"):
                    result = json.loads(line)
        if result.get("status") != "FINISHED:COMPLETED" or len(result["accuracy"]) != workload.rounds:
            raise BenchError(f"the FLARE job ended as {result.get('status')}; see {scratch}")
        return Measurement(
            round_s=result["round_s"],
            accuracy=result["accuracy"][-1],
            run_s=result["run_s"],
            command_s=time.monotonic() - started,
        )
