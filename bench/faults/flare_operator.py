# NVIDIA FLARE is not where the types are checked.
# mypy: disable-error-code="import-not-found,misc"
"""What an operator of FLARE does, as a program in FLARE's own environment.

    python -m bench.faults.flare_operator prepare --workspace DIR --port 8002 --line-port 8003 --clients 3 --rounds 12
    python -m bench.faults.flare_operator follow --workspace DIR --clients 3

`prepare` provisions and exports the job. `follow` waits for the clients, submits the job, and prints a line of JSON each second:
the clients that the server lists, and how the job stands; after the job's end also its record.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.job_config.model import PTModel
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import ScriptRunner

from bench.flare.federation import ADMIN, connect, provision
from bench.flare.local_work import JobModel

SCRIPT = str(Path(__file__).with_name("flare_client.py"))
HEART_BEAT_TIMEOUT, GRACE_S, LEAD_S = 30, 5.0, 5.0


def main() -> None:
    """Do one of both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["prepare", "follow"])
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--line-port", type=int, default=0)
    parser.add_argument("--touched", action="store_true")
    given = parser.parse_args()
    if given.what == "prepare":
        provision(
            given.workspace,
            given.clients,
            given.port,
            first_client_port=given.line_port,
            heart_beat_timeout=HEART_BEAT_TIMEOUT if given.touched else None,
        )
        export = touched if given.touched else recipe
        export(given.workspace / "jobs", given.clients, given.rounds)
    else:
        follow(given.workspace / "bench" / "prod_00", given.workspace / "jobs" / "bench", given.clients)


def recipe(folder: Path, clients: int, rounds: int) -> None:
    """FLARE's FedAvg recipe; a round needs all clients, because the recipe asks as many as it needs."""
    job = FedAvgRecipe(
        name="bench", model=JobModel(), min_clients=clients, num_rounds=rounds, train_script=SCRIPT
    )
    job.export(str(folder))


def touched(folder: Path, clients: int, rounds: int) -> None:
    """The same by the job API, which has settings that the recipe lacks: fewer clients and errors end no job."""
    job = FedJob(name="bench", min_clients=clients - 1)
    persistor = job.to_server(PTModel(model=JobModel()), id="persistor")["persistor_id"]
    job.to_server(
        FedAvg(num_clients=clients, num_rounds=rounds, persistor_id=persistor, ignore_result_error=True)
    )
    job.to_clients(ScriptRunner(script=SCRIPT))
    job.export_job(str(folder))
    for file in folder.rglob("config_fed_server.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        config |= {"dead_client_grace_period": GRACE_S, "dead_client_check_lead_time": LEAD_S}
        file.write_text(json.dumps(config, indent=2), encoding="utf-8")


def follow(kits: Path, job: Path, clients: int) -> None:
    """Submit, and tell how it stands until the process is ended."""
    first = connect(kits, clients)
    job_id = first.submit_job(str(job))
    session: Session | None = first
    while True:
        time.sleep(1)
        try:
            session = session or new_secure_session(ADMIN, str(kits / ADMIN), timeout=5)
            listed = [each.name for each in session.get_system_info().client_info]
            meta: dict[str, Any] = session.get_job_meta(job_id)
        except Exception as error:  # FLARE raises many kinds while its server is down
            print(f"no answer: {error!r}", file=sys.stderr, flush=True)
            session = None
            continue
        status = str(meta.get("status"))
        told: dict[str, Any] = {"clients": listed, "status": status}
        if status.startswith("FINISHED"):
            told["record"] = meta
        print(json.dumps(told, default=str), flush=True)


if __name__ == "__main__":
    main()
