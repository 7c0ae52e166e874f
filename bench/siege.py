"""What a stranger and a hostile member cost a federation that trains.

Ten clients train on the digits, once in peace and once while both besiegers (`bench/besieger.py`) open their connections
and make their calls. All of it is on one machine, so the besiegers run at the lowest priority.
"""

import csv
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.fleet.control import Connection
from app.fleet.identity import members
from app.fleet.identity.certificates import init_ca, issue_server
from app.fleet.identity.keys import make_node_key
from bench.environments import ROOT
from bench.machine import describe
from bench.processes import BenchError, Processes, free_ports, wait_until
from bench.watch import by_role, memory_mb

GOAL_SLOWER, GOAL_MEMORY_MB, GOAL_LOG_MB = 0.20, 400.0, 1.0


@dataclass(slots=True)
class Size:
    """How large the siege is; each of the two besiegers makes all of it."""

    clients: int = 10
    rounds: int = 30
    connections: int = 2000
    calls: int = 20_000


@dataclass(slots=True)
class Run:
    """One training run."""

    round_s: float
    replies: int
    """Accepted training replies of all rounds."""
    wanted: int
    seconds: float


class Siege:
    """A SuperLink with keys and its clients, ready to be besieged."""

    def __init__(self, processes: Processes, scratch: Path, size: Size) -> None:
        self.processes, self.scratch, self.size = processes, scratch, size
        self.pki = scratch / "pki"
        self.fleet, self.control = free_ports(2)
        self.connection = Connection(f"127.0.0.1:{self.control}", self.pki / "ca.crt")
        self.log = scratch / "superlink.log"
        self.peak_mb = 0.0

    def start(self) -> None:
        """Start the SuperLink, enroll the clients and a hostile member, start the clients."""
        init_ca(self.pki)
        issue_server(self.pki)
        self._bouquet(
            "superlink", "superlink", "--certificates", str(self.pki), "--state", str(self.scratch / "state"),
            "--fleet-address", f"127.0.0.1:{self.fleet}", "--control-port", str(self.control),
        )  # fmt: skip
        wait_until(
            lambda: "Uvicorn running" in self.log.read_text(errors="replace"), "the SuperLink's start", 120
        )
        for name in [*map(str, range(self.size.clients)), "hostile"]:
            key = make_node_key(self.scratch / "keys" / f"{name}.key")
            members.enroll(f"client-{name}", key.public_path, self.connection)
        for number in range(self.size.clients):
            self._bouquet(
                f"supernode-{number}", "supernode", "--superlink", f"localhost:{self.fleet}", "--health-port", "0",
                "--ca", str(self.pki / "ca.crt"), "--key", str(self.scratch / "keys" / f"{number}.key"),
                PARTITION_ID=str(number),
            )  # fmt: skip

    def train(self, name: str, besiegers: Callable[[], list[Any]] = list) -> Run:
        """Train; the besiegers start with it and are waited for."""
        before = time.monotonic()
        process = self._bouquet(
            name, "train", "--clients", str(self.size.clients), "--rounds", str(self.size.rounds),
            "--control-address", f"127.0.0.1:{self.control}", "--ca", str(self.pki / "ca.crt"), "--app", str(ROOT),
        )  # fmt: skip
        hostile = besiegers()
        deadline = before + 900
        while process.poll() is None or any(each.poll() is None for each in hostile):
            if time.monotonic() > deadline:
                raise BenchError(f"{name} did not end within 900 s; its logs are in {self.scratch}")
            found = by_role(self.processes)["superlink"]
            self.peak_mb = max(self.peak_mb, memory_mb(found)[1])
            time.sleep(0.5)
        if process.returncode:
            last = (self.scratch / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise BenchError(
                f"{name} ended with status {process.returncode}: {last}; logs are in {self.scratch}"
            )
        return self._result(time.monotonic() - before)

    def attack(self, seconds: float) -> list[Any]:
        """Start both besiegers, whose calls are spread over `seconds`."""
        size = [str(self.size.connections), str(self.size.calls), str(seconds)]
        common = [f"localhost:{self.fleet}", str(self.pki / "ca.crt"), *size]
        module = [sys.executable, "-m", "bench.besieger"]
        (node,) = (each.node_id for each in members.members(self.connection) if each.name == "client-hostile")
        own = [str(self.scratch / "keys" / "hostile.key"), str(node)]
        return [
            self.processes.start("stranger", [*module, "stranger", *common], cwd=ROOT),
            self.processes.start("member", [*module, "member", *common, *own], cwd=ROOT),
        ]

    def told(self, who: str) -> dict[str, Any]:
        """What a besieger says of its calls."""
        lines = (self.scratch / f"{who}.log").read_text(errors="replace").splitlines()
        found = [line for line in lines if line.startswith('{"connections"')]
        if not found:
            raise BenchError(f"the {who} did not finish: {lines[-1:]}")
        return dict(json.loads(found[-1]))

    def _bouquet(self, name: str, *arguments: str, **env: str) -> Any:
        return self.processes.start(name, [sys.executable, "-m", "app.cli", *arguments], cwd=ROOT, env=env)

    def _result(self, seconds: float) -> Run:
        latest = self.scratch / "results" / "latest"
        rounds = json.loads((latest / "summary.json").read_text())["round_s"]
        with (latest / "history.csv").open(newline="") as file:
            trained = [row for row in csv.DictReader(file) if row["phase"] == "train"]
        wanted = self.size.clients * self.size.rounds
        return Run(statistics.median(rounds[1:] or rounds), len(trained), wanted, seconds)


def run(store: Path, scratch: Path, size: Size, echo: Callable[[str], None]) -> dict[str, Any]:
    """Train in peace, then under siege. Raises BenchError where a run does not end well."""
    env = {
        "PYTHONPATH": str(ROOT), "BOUQUET_DATA": str(store), "BOUQUET_RESULTS": str(scratch / "results"),
        "BOUQUET_LOCAL_CLIENTS": str(size.clients), "NUM_CLIENTS": str(size.clients), "FLWR_HOME": str(scratch / "flwr"),
        "BOUQUET_LEASES": str(scratch / "leases"),
    }  # fmt: skip
    (scratch / "leases").mkdir(parents=True, exist_ok=True)
    with Processes(scratch, env) as processes:
        siege = Siege(processes, scratch, size)
        siege.start()
        echo(f"{size.clients} clients, {size.rounds} rounds in peace")
        peace = siege.train("peace")
        echo(
            f"and under siege: {size.connections} connections and {size.calls} calls of a stranger, and of a member"
        )
        log_before = siege.log.stat().st_size
        war = siege.train("war", lambda: siege.attack(peace.seconds))
        return {
            "machine": describe(), "size": asdict(size), "peace": asdict(peace), "war": asdict(war),
            "slower": war.round_s / peace.round_s - 1, "superlink_mb": siege.peak_mb,
            "log_mb": (siege.log.stat().st_size - log_before) / 1e6,
            "stranger": siege.told("stranger"), "member": siege.told("member"),
        }  # fmt: skip


def lines(found: dict[str, Any]) -> list[str]:
    """The figures in words."""
    peace, war = found["peace"], found["war"]
    return [
        f"seconds per round: {peace['round_s']:.2f} in peace, {war['round_s']:.2f} under siege, "
        f"{100 * found['slower']:+.0f} % (goal: at most +{100 * GOAL_SLOWER:.0f} %)",
        f"replies counted: {war['replies']} of {war['wanted']}",
        f"SuperLink's memory: {found['superlink_mb']:.0f} MB at most (goal: under {GOAL_MEMORY_MB:.0f} MB)",
        f"its log grew by {found['log_mb']:.2f} MB (goal: under {GOAL_LOG_MB:.0f} MB)",
        *(f"{who}: {told['calls']} calls on {told['connections']} connections ended with {told['ended']}"
          for who, told in (("stranger", found["stranger"]), ("member", found["member"]))),
    ]  # fmt: skip


def write(found: dict[str, Any], folder: Path) -> None:
    """Write siege.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "siege.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
