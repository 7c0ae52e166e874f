"""What ten clients cost while they wait: CPU in % of one core, and memory per client.

Measured before any run, and after a run, when the clients hold a warm process for the next message; after a run
also in containers, where Docker is, with the time from `docker compose up` until all clients are connected.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench import compose, idle_containers
from bench.contenders.stock_flower import serving
from bench.environments import ROOT
from bench.machine import describe
from bench.processes import Processes, free_ports, wait_until
from bench.watch import Role, by_role, cpu_s, memory_mb

GOAL_PERCENT, GOAL_MB, GOAL_START_S = 3.0, 350.0, 30.0

Members = dict[Role, list[psutil.Process]]


@dataclass(slots=True)
class Idle:
    """One look at the idle federation."""

    when: str
    clients: int
    seconds: float
    clients_percent: float
    """CPU of all clients together, in % of one core."""
    superlink_percent: float
    client_pss_mb: float
    client_uss_mb: float
    superlink_pss_mb: float
    processes_per_client: float


def run(
    store: Path, scratch: Path, clients: int, seconds: float, echo: Callable[[str], None]
) -> dict[str, Any]:
    """Start a SuperLink and clients, wait, look; train two rounds, wait, look again."""
    results = scratch / "results"
    env = {
        "PYTHONPATH": str(ROOT),
        "BOUQUET_DATA": str(store),
        "BOUQUET_RESULTS": str(results),
        "BOUQUET_LOCAL_CLIENTS": str(clients),
        "BOUQUET_LEASES": str(scratch / "leases"),
        "NUM_CLIENTS": str(clients),
        "FLWR_HOME": str(scratch / "flwr"),
    }
    (scratch / "leases").mkdir(parents=True, exist_ok=True)
    bouquet = [sys.executable, "-m", "app.cli"]
    with Processes(scratch, env) as processes:
        fleet, api = free_ports(2)
        addresses = ["--fleet-address", f"127.0.0.1:{fleet}", "--control-port", str(api)]
        processes.start("superlink", [*bouquet, "superlink", "--insecure", *addresses], cwd=ROOT)
        wait_until(lambda: serving(api), "the SuperLink's start", 120)
        for number in range(clients):
            node = [
                *bouquet,
                "supernode",
                "--insecure",
                "--superlink",
                f"127.0.0.1:{fleet}",
                "--health-port",
                "0",
            ]
            own = {"PARTITION_ID": str(number)}
            processes.start(f"supernode-{number}", node, cwd=ROOT, env=own)
        echo(f"{clients} clients started; watching for {seconds:.0f} s once they are at rest")
        members = partial(by_role, processes)
        _settle(members)
        looks = [_look("before any run", members, clients, seconds)]
        echo("training two rounds")
        train = [*bouquet, "train", "--clients", str(clients), "--rounds", "2"]
        control = ["--control-address", f"127.0.0.1:{api}", "--app", str(ROOT)]
        for _ in processes.run("train", [*train, *control], 900, cwd=ROOT):
            pass
        _settle(members)
        looks.append(_look("after a run", members, clients, seconds))
    return {"machine": describe(), "looks": [asdict(look) for look in looks]}


def add_containers(
    found: dict[str, Any],
    folder: Path,
    scratch: Path,
    clients: int,
    seconds: float,
    echo: Callable[[str], None],
) -> None:
    """The same in containers, after a run, with the time that they take to start; or why not."""
    problem = compose.missing() or ("" if os.geteuid() == 0 else "reading their memory takes root")
    if problem:
        echo(f"containers were not measured: {problem}")
        return
    with idle_containers.started(folder, scratch, clients, echo) as federation:
        _settle(federation.members)
        look = _look("in containers, after a run", federation.members, clients, seconds)
        found["looks"].append(asdict(look))
        found["compose_start_s"] = federation.start_s


def _settle(
    members: Callable[[], Members], look_s: float = 3.0, at_rest: float = 0.1, timeout_s: float = 180.0
) -> None:
    """Wait until the clients together use less than a tenth of a core: they warm up after they start."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        busy = members().get("client", [])
        before = cpu_s(busy)
        time.sleep(look_s)
        if busy and cpu_s(busy) - before < at_rest * look_s:
            return


def _look(when: str, who: Callable[[], Members], clients: int, seconds: float) -> Idle:
    members: Members = {"client": [], "superlink": [], "serverapp": [], **who()}
    before = {name: cpu_s(found) for name, found in members.items()}
    time.sleep(seconds)
    spent = {name: cpu_s(found) - before[name] for name, found in members.items()}
    pss, uss = memory_mb(members["client"])
    return Idle(
        when=when,
        clients=clients,
        seconds=seconds,
        clients_percent=100 * spent["client"] / seconds,
        superlink_percent=100 * (spent["superlink"] + spent["serverapp"]) / seconds,
        client_pss_mb=pss / clients,
        client_uss_mb=uss / clients,
        superlink_pss_mb=memory_mb(members["superlink"] + members["serverapp"])[0],
        processes_per_client=len(members["client"]) / clients,
    )


def lines(found: dict[str, Any]) -> list[str]:
    """The figures in words."""
    text = []
    for look in found["looks"]:
        text += [
            f"{look['when']}: {look['clients']} idle clients use {look['clients_percent']:.1f} % of one core "
            f"in all (goal: at most {GOAL_PERCENT:.0f} %); SuperLink {look['superlink_percent']:.1f} %",
            f"    memory per client {look['client_pss_mb']:.0f} MB proportional, {look['client_uss_mb']:.0f} MB "
            f"unique, in {look['processes_per_client']:.0f} processes (goal in a container: at most "
            f"{GOAL_MB:.0f} MB); SuperLink {look['superlink_pss_mb']:.0f} MB",
        ]
    if start_s := found.get("compose_start_s"):
        text.append(
            f"containers: all clients connected {start_s:.1f} s after `docker compose up` "
            f"(goal: at most {GOAL_START_S:.0f} s)"
        )
    return text


def write(found: dict[str, Any], folder: Path) -> None:
    """Write idle.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "idle.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
