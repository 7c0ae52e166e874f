"""``bouquet up``: the whole federation as plain processes on this machine, and everything down again."""

import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from app.environment import declared, with_variables
from app.errors import UserError
from app.fleet import flower
from app.fleet.control import ConnectionLost
from app.fleet.deployment import PACKAGE, ClientSettings, RunRules, SuperNodeSettings, UpSettings
from app.fleet.host import cores, ports
from app.fleet.host.gpus import choose_gpu, visible_gpus
from app.fleet.host.processes import Processes, Running
from app.fleet.local.launch import START_TIMEOUT_S, Data, Launch, launch
from app.fleet.local.supervisor import Supervisor
from app.fleet.patches import tables
from app.fleet.patches.registry import check_switches, why_off
from app.fleet.patches.supernode import warm
from app.fleet.runs.bundle import app_hash
from app.fleet.runs.retry import submit_until_ended
from app.fleet.runs.submit import Outcome, Submission, is_own_app, wait_for_clients, wait_for_control_api
from app.fleet.site.allowed_apps import ANY, THE_OWN, AllowedApps, with_own
from app.settings import RunValue

_NODE = re.compile(r"\bnode (\d{9,})")  # a client without a name, which here has that of its log


def check(settings: UpSettings) -> None:
    """Raise UserError for what cannot work, before anything is prepared or started."""
    ports.require_free("--control-port", settings.control_port)
    if settings.metrics:
        host, port = ports.split(settings.metrics)
        ports.require_free("--metrics", port, host)
    choose_gpu(settings.device, settings.visible_gpus, 0)
    check_switches(settings.patches, tables.NAMES)


def run(
    settings: UpSettings,
    data: Data,
    project: Path,
    run_config: Mapping[str, RunValue],
    echo: Callable[[str], None],
    submitted: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Start a SuperLink and the SuperNodes, train, and take everything down, whatever happens.

    Args:
        settings: how the federation is run; :func:`check` has seen them.
        data: what it learns from.
        project: the app to run.
        run_config: run-config keys that differ from the app's defaults.
        echo: takes each line for the person.
        submitted: called each time with Flower's id of the run when it has been submitted.
    """
    settings = replace(settings, control_port=settings.control_port or ports.free_port())
    address = f"127.0.0.1:{settings.control_port}"
    submission = Submission(project, run_config, address, resumes=is_own_app(project))
    # Python's tracker ends when this process does, and not before. With the run's folder in its environment the guard,
    # which this process waits for, would wait for it.
    resource_tracker.ensure_running()
    with launch(settings.results, echo) as this, ExitStack() as down:
        this.outcome = _run(settings, data, submission, this, echo, submitted, down)
        return this.outcome


def _run(
    settings: UpSettings,
    data: Data,
    submission: Submission,
    this: Launch,
    echo: Callable[[str], None],
    submitted: Callable[[int], None],
    down: ExitStack,
) -> Outcome:
    processes = this.processes
    superlink = _start_superlink(settings, data, processes, this.home)
    gpus = visible_gpus(settings.device, settings.visible_gpus)
    # The SuperNodes, and the warm processes that load the app, are forked from processes with this environment.
    flower.prepare_environment(_variables(settings, data, this.home, gpus))
    # This imports Flower, while the SuperLink does the same.
    from app.fleet.local import replicas

    supernodes = replicas.Replicas(
        cores.threads_per_client(settings.threads, settings.num_clients),
        # With GPUs each client needs its own CUDA_VISIBLE_DEVICES before its warm parent starts.
        warm=not gpus and not why_off(warm.PATCH, settings.patches),
    )
    down.callback(supernodes.stop)
    down.callback(processes.stop)
    wait_for_control_api(submission.control_address, START_TIMEOUT_S, lambda: superlink.poll() is None)

    clients = _supernodes(settings, data.dataset, this.home, submission.project)

    def restart(name: str) -> None:
        if name in clients:
            supernodes.start(processes, {name: clients[name]})
        else:
            _start_superlink(settings, data, processes, this.home)

    def start_clients() -> None:
        if missing := {name: client for name, client in clients.items() if name not in processes.running}:
            supernodes.start(processes, missing)

    def begun(run_id: int) -> None:
        submitted(run_id)
        start_clients()

    supervisor = Supervisor(processes, restart, echo)
    down.callback(supervisor.stop)
    supervisor.start()
    try:
        if not submission.resumes:  # Bouquet's own waits for all clients, and starts while they do
            start_clients()
            wait_for_clients(submission, settings.num_clients, lambda: None)
        return submit_until_ended(
            submission, _with_names(processes, echo), begun, back_within_s=START_TIMEOUT_S
        )
    except KeyboardInterrupt:
        if supervisor.error is not None:
            raise supervisor.error from None
        raise
    except ConnectionLost as error:
        supervisor.stop()
        processes.require_running()
        raise UserError(supervisor.latest or str(error)) from None


def _with_names(processes: Processes, echo: Callable[[str], None]) -> Callable[[str], None]:
    """Takes lines, and gives clients without a name those of their logs."""

    def name_of(node: "re.Match[str]") -> str:
        return processes.whose_log_has(f"SuperNode ID: {node[1]}") or node[0]

    return lambda line: echo(_NODE.sub(name_of, line))


def _fleet_address(home: Path) -> str:
    """A socket in the run's own folder, which no other user of this machine can enter."""
    return ports.unix_address(home / "fleet")


def _start_superlink(settings: UpSettings, data: Data, processes: Processes, home: Path) -> Running:
    command = [
        sys.executable, "-m", "app.cli", "superlink", "--insecure",
        "--fleet-address", _fleet_address(home), "--control-port", str(settings.control_port),
    ]  # fmt: skip
    gpus = {} if settings.visible_gpus is None else {"CUDA_VISIBLE_DEVICES": settings.visible_gpus}
    return processes.start(
        "superlink",
        command,
        gpus
        | data.variables()
        | {
            "BOUQUET_DEVICE": str(settings.device),
            "BOUQUET_RESULTS": str(settings.results.resolve()),
            "BOUQUET_MODE": settings.mode or "local",
            **{name: str(value) for name, value in rules(settings).items() if value is not None},
            "BOUQUET_PATCHES": settings.patches,
            "BOUQUET_METRICS": settings.metrics,
            "FLWR_HOME": str(home / "superlink"),
            "PYTHONPATH": flower.python_path(PACKAGE),
        },
    )


def rules(settings: UpSettings) -> dict[str, Any]:
    """When a phase of another app goes on, by the names of the variables."""
    return {of.variable: getattr(settings, name) for name, of in declared(RunRules).items()}


def _variables(settings: UpSettings, data: Data, home: Path, gpus: list[str]) -> dict[str, str]:
    """What Flower and the ClientApps must find in their environment."""
    variables = data.variables() | {
        "BOUQUET_DEVICE": str(settings.device),
        "BOUQUET_PATCHES": settings.patches,
        "FLWR_HOME": str(home / "flwr"),
        "PYTHONPATH": flower.python_path(PACKAGE),
    }
    if not gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ""  # forks must know that no GPU is there (``warm/parent.py``)
    return variables | cores.sleep_soon(with_variables({}))


def _supernodes(
    settings: UpSettings, dataset: Path | None, home: Path, project: Path
) -> dict[str, SuperNodeSettings]:
    """The settings of each SuperNode, by its name."""
    allowed = with_own(settings.allowed_apps, lambda: app_hash(project))
    if settings.allowed_apps == THE_OWN and why_off(warm.PATCH, settings.patches):
        # Flower's own way checks no app. Here it is the one that this command submits.
        allowed = AllowedApps({ANY})
    shared: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(ClientSettings)}
    shared |= {"superlink": _fleet_address(home), "insecure": True, "health_port": 0, "dataset_path": dataset}
    shared |= {"allowed_apps": allowed}
    shared |= {"num_clients": settings.num_clients, "leases": home / "leases"}
    return {
        f"supernode-{number}": SuperNodeSettings(**shared, partition_id=str(number))
        for number in range(settings.num_clients)
    }
