# NVIDIA FLARE is not where the types are checked.
# mypy: disable-error-code="import-not-found,misc"
"""Provision a FLARE federation, start its processes, submit the job, and report its times.

    python -m bench.flare.federation --workspace DIR --clients 10 --rounds 5 --port 8002 [--tuned]

Runs in FLARE's own environment and prints one JSON line. Its processes are ended by the caller.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from nvflare.job_config.api import FedJob

from bench.flare.components import ServerEvaluation, TunedExecutor
from bench.flare.local_work import JobModel

ADMIN = "admin@nvidia.com"
CONSOLE = "console.log"
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}")
ROUND = re.compile(r"Round \d+ started|Finished FedAvg")
POLL_S = 0.05
"""Tuned: how often server and clients look for something to do (FLARE's own: 0.5 s each)."""


def main() -> None:
    """Bring up, submit, wait, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tuned", action="store_true")
    arguments = parser.parse_args()

    kits = provision(arguments.workspace, arguments.clients, arguments.port)
    job = export_job(arguments.workspace / "jobs", arguments.clients, arguments.rounds, arguments.tuned)
    start(kits, arguments.clients)
    session = connect(kits, arguments.clients)
    submitted = time.time()
    job_id = session.submit_job(str(job))
    status = wait(session, job_id)
    run_s = time.time() - submitted
    session.close()
    print(json.dumps({"status": status, "run_s": run_s, "submitted": submitted, **rounds(kits)}))


def provision(
    workspace: Path,
    clients: int,
    port: int,
    *,
    first_client_port: int | None = None,
    heart_beat_timeout: int | None = None,
) -> Path:
    """Certificates and start-up kits, as `nvflare provision` makes them; the directory of the kits.

    The first client may dial another port than the server's, and the server's `heart_beat_timeout` be another.
    """
    participants: list[dict[str, Any]] = [
        {
            "name": "server",
            "type": "server",
            "org": "bench",
            "fed_learn_port": port,
            "default_host": "localhost",
        },
        *({"name": f"site-{i + 1}", "type": "client", "org": "bench"} for i in range(clients)),
        {"name": ADMIN, "type": "admin", "org": "bench", "role": "project_admin"},
    ]
    if first_client_port is not None:
        line = {"name": "server", "host": "localhost", "port": first_client_port}
        participants[1] = {**participants[1], "connect_to": line}
    builders = [
        {"path": "nvflare.lighter.impl.workspace.WorkspaceBuilder"},
        {"path": "nvflare.lighter.impl.static_file.StaticFileBuilder", "args": {"scheme": "grpc"}},
        {"path": "nvflare.lighter.impl.cert.CertBuilder"},
        {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
    ]
    project = {
        "api_version": 3,
        "name": "bench",
        "description": "Bouquet's benchmark",
        "participants": participants,
        "builders": builders,
    }
    file = workspace / "project.yml"
    file.write_text(yaml.safe_dump(project), encoding="utf-8")
    run = [sys.executable, "-m", "nvflare.cli", "provision", "-p", str(file), "-w", str(workspace)]
    subprocess.run(run, check=True, capture_output=True)
    kits = workspace / "bench" / "prod_00"
    # The site's own storage must lie inside the workspace, not under /tmp/nvflare.
    for resources in kits.glob("*/local/resources.json.default"):
        text = resources.read_text(encoding="utf-8").replace("/tmp/nvflare", str(workspace / "storage"))
        if heart_beat_timeout is not None:
            text = text.replace('"heart_beat_timeout": 600', f'"heart_beat_timeout": {heart_beat_timeout}')
        resources.with_name("resources.json").write_text(text, encoding="utf-8")
    return kits


def export_job(folder: Path, clients: int, rounds: int, tuned: bool) -> Path:
    """FLARE's FedAvg recipe with the in-process Client API; tuned: faster polls and no Client API."""
    if tuned:
        from nvflare.app_opt.pt.job_config.model import PTModel

        job = FedJob(name="bench", min_clients=clients)
        persistor = job.to_server(PTModel(model=JobModel()), id="persistor")["persistor_id"]
        job.to_server(
            FedAvg(num_clients=clients, num_rounds=rounds, persistor_id=persistor, task_check_period=POLL_S)
        )
        job.to_server(ServerEvaluation())
        job.to_clients(TunedExecutor(), tasks=["train"])
        job.export_job(str(folder))
        for file in folder.rglob("config_fed_client.json"):
            config = json.loads(file.read_text(encoding="utf-8"))
            config["default_task_fetch_interval"] = POLL_S
            file.write_text(json.dumps(config, indent=2), encoding="utf-8")
    else:
        recipe = FedAvgRecipe(
            name="bench",
            model=JobModel(),
            min_clients=clients,
            num_rounds=rounds,
            train_script=str(Path(__file__).with_name("client_script.py")),
        )
        recipe._job.to_server(ServerEvaluation())  # the recipe offers no way to add a component
        recipe.export(str(folder))
    return folder / "bench"


def start(kits: Path, clients: int) -> None:
    """Start the server and every client with the command of its start-up kit, in the foreground."""
    for name in ["server", *(f"site-{i + 1}" for i in range(clients))]:
        log = (kits / name / CONSOLE).open("w", encoding="utf-8")
        script = kits / name / "startup" / "sub_start.sh"
        subprocess.Popen(
            ["bash", str(script), "--once"], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        log.close()


def connect(kits: Path, clients: int, timeout_s: float = 180) -> Session:
    """Log in, and wait until every client has joined."""
    deadline = time.monotonic() + timeout_s
    session = None
    while time.monotonic() < deadline:
        try:
            session = session or new_secure_session(ADMIN, str(kits / ADMIN), timeout=5)
            if len(session.get_system_info().client_info) == clients:
                return session
        except Exception as error:  # FLARE raises many kinds while its server is coming up
            print(f"not yet: {error!r}", file=sys.stderr)
        time.sleep(0.5)
    raise SystemExit("the FLARE clients did not all join")


def wait(session: Session, job_id: str) -> str:
    """The job's final status."""
    while True:
        status = str(session.get_job_meta(job_id).get("status"))
        if status.startswith("FINISHED"):
            return status
        time.sleep(0.5)


def rounds(kits: Path) -> dict[str, list[float]]:
    """Seconds of each round and accuracy after it, from the output of the server's job.

    FLARE announces a round in a framed message of several lines; its time stamp is on the first.
    """
    marks: list[float] = []
    accuracy: list[float] = []
    stamp = 0.0
    for line in (kits / "server" / CONSOLE).read_text(encoding="utf-8").splitlines():
        if STAMP.match(line):
            stamp = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
        if ROUND.search(line):
            marks.append(stamp)
        elif "BENCH " in line:
            accuracy.append(json.loads(line.partition("BENCH ")[2])["accuracy"])
    return {
        "round_s": [after - before for before, after in pairwise(marks)],
        "accuracy": accuracy,
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
