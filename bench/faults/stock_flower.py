"""Stock Flower as its documentation deploys it: `flower-superlink`, `flower-supernode`, `flwr run`."""

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.errors import UserError
from app.fleet.control import Connection, control
from bench.contenders.stock_flower import CONNECTION, ONE_THREAD, command, serving
from bench.environments import ROOT
from bench.faults.contract import (
    ROLE,
    SERVER,
    Contender,
    Federation,
    State,
    Work,
    client,
    wait_until,
)
from bench.faults.line import Line
from bench.faults.work import RAISES, WORK_S
from bench.processes import BenchError, Processes, free_ports

APP = Path(__file__).with_name("stock_app")


@dataclass
class StockFederation(Federation):
    """The SuperLink keeps its state in a file, as Flower's guide for Docker advises."""

    def start(self) -> None:
        """Server, then clients one by one, so that each one's node id is known."""
        self.api, *self.node_ports = free_ports(1 + self.work.clients)
        self.connection = Connection(f"127.0.0.1:{self.api}")
        self.nodes: dict[int, str] = {}
        self.supervise(SERVER, self._server)
        wait_until(lambda: serving(self.api), "the SuperLink's start", 120)
        for number in range(1, self.work.clients + 1):
            self.supervise(client(number), lambda number=number: self._client(number))  # type: ignore[misc]
            wait_until(lambda number=number: self._known(number), "the SuperNode's start", 180, 1.0)  # type: ignore[misc]

    def submit(self) -> None:
        """`flwr run`."""
        home = Path(self.processes.env["FLWR_HOME"])
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n'
            f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{self.api}"\ninsecure = true\n',
            encoding="utf-8",
        )
        app = self.scratch / "app"  # `flwr run` leaves files beside the app
        shutil.copytree(APP, app, ignore=shutil.ignore_patterns("__pycache__"))
        config = f'num-server-rounds={self.work.rounds} store="{self.work.store}"'
        run: list[str | Path] = [
            command("flwr"),
            "run",
            str(app),
            CONNECTION,
            "--run-config",
            config,
            "--format",
            "json",
        ]
        said = "\n".join(self.processes.run("flwr-run", run, 120))
        try:
            self.run_id = int(json.loads(said[said.index("{") :])["run-id"])
        except (ValueError, KeyError):
            raise BenchError(f"`flwr run` did not tell the run's id: {said[-160:]}") from None

    def state(self) -> tuple[State, str]:
        """As `flwr list` has it."""
        from flwr.proto.control_pb2 import ListRunsRequest

        try:
            with control(self.connection) as api:
                runs = api.ListRuns(ListRunsRequest()).run_dict
        except UserError:
            return "runs", ""  # the SuperLink is down
        if self.run_id not in runs:
            return "failed", "unknown to the SuperLink"
        status = runs[self.run_id].status
        if status.status != "finished":
            return "runs", ""
        return ("done" if status.sub_status == "completed" else "failed"), f"finished:{status.sub_status}"

    def misses(self, number: int) -> bool:
        """By `flwr supernode list`."""
        return self._statuses().get(self.nodes[number]) == "offline"

    def names(self, number: int) -> list[str]:
        """Flower knows a client by the id of its node."""
        return [self.nodes[number], client(number)]

    def result(self) -> str:
        """The end of `flwr log`, from the final results on, and the line of `flwr list`."""
        show: list[str | Path] = [command("flwr"), "log", str(self.run_id), CONNECTION, "--show"]
        said = list(self.processes.run("flwr-log", show, 120))
        final = next((at for at, line in enumerate(said) if "Final results" in line), len(said))
        return "\n".join([*said[final:], self.state()[1]])

    def _server(self) -> "subprocess.Popen[str]":
        return self.processes.start(
            SERVER,
            [
                *(command("flower-superlink"), "--insecure", "--disable-runtime-dependency-installation"),
                *("--host", "127.0.0.1", "--port", str(self.api), "--fleet-api-address", f"127.0.0.1:{self.port}"),
                *("--database", str(self.scratch / "state.db")),
            ],
            env={ROLE: SERVER},
        )  # fmt: skip

    def _client(self, number: int) -> "subprocess.Popen[str]":
        return self.processes.start(
            client(number),
            [
                *(command("flower-supernode"), "--insecure"),
                *("--superlink", f"127.0.0.1:{self.server_port(number)}"),
                *("--host", "127.0.0.1", "--port", str(self.node_ports[number - 1])),
                *("--node-config", f"partition-id={number - 1} num-partitions={self.work.clients}"),
            ],
            env={ROLE: client(number)},
        )

    def _known(self, number: int) -> bool:
        for node in self._statuses():
            if node not in self.nodes.values():
                self.nodes[number] = node
        return number in self.nodes

    def _statuses(self) -> dict[str, str]:
        from flwr.proto.control_pb2 import ListNodesRequest

        try:
            with control(self.connection) as api:
                return {
                    str(node.node_id): node.status for node in api.ListNodes(ListNodesRequest()).nodes_info
                }
        except UserError:
            return {}


class StockFlower(Contender):
    """FedAvg's own minimum of two clients; a state file for the SuperLink."""

    key = "stock"
    title = "stock Flower"
    touched = ("`--database`",)

    @contextmanager
    def federation(self, scratch: Path, work: Work, raises: bool) -> Iterator[Federation]:
        """On loopback, without TLS."""
        env = ONE_THREAD | {
            "FLWR_HOME": str(scratch / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            WORK_S: str(work.work_s),
            RAISES: f"1:{work.fault_round}" if raises else "",
        }
        (scratch / "flwr").mkdir(parents=True)
        port, line_port = free_ports(2)
        with Line(port, line_port) as line, Processes(scratch, env) as processes:
            yield StockFederation(processes, scratch, work, line, port)
