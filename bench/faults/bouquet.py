"""Bouquet as its hosts run it: a SuperLink with TLS and keys, SuperNodes, and `bouquet train`."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.errors import UserError
from app.fleet.control import Connection
from app.fleet.identity import members
from app.fleet.identity.certificates import init_ca, issue_server
from app.fleet.identity.keys import make_node_key
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

MODS = "@app.train(mods=[packing_mod"


def project(folder: Path) -> Path:
    """A copy of the app whose clients do the benchmark's work around their training."""
    folder.mkdir(parents=True)
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "app", folder / "app", ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(Path(__file__).with_name("work.py"), folder / "app" / "bench_work.py")
    file = folder / "app" / "client_app.py"
    text = file.read_text(encoding="utf-8")
    if text.count(MODS) != 1:
        raise BenchError(
            f"{ROOT / 'app' / 'client_app.py'} has no `{MODS}`, where the benchmark adds its own"
        )
    text = text.replace(MODS, MODS.replace("packing_mod", "benchmark_mod, packing_mod"))
    text = text.replace(
        "app = ClientApp()\n",
        "app = ClientApp()\n\n\n"
        "def benchmark_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:\n"
        "    from app.bench_work import training\n\n"
        '    server_round = int(message.content.config_records["config"]["server-round"])\n'
        '    with training(int(context.node_config["partition-id"]) + 1, server_round):\n'
        "        return call_next(message, context)\n",
    )
    file.write_text(text, encoding="utf-8")
    return folder


@dataclass
class BouquetFederation(Federation):
    """Its processes run the copy of the app, so that the clients allow it."""

    def start(self) -> None:
        """CA, certificates and keys; server; members; clients."""
        self.code = project(self.scratch / "project")
        self.pki = self.scratch / "pki"
        init_ca(self.pki)
        issue_server(self.pki)
        (self.control_port,) = free_ports(1)
        self.connection = Connection(f"127.0.0.1:{self.control_port}", self.pki / "ca.crt")
        self.supervise(
            SERVER,
            lambda: self._bouquet(
                SERVER, "superlink", "--certificates", str(self.pki), "--state", str(self.scratch / "state"),
                "--fleet-address", f"127.0.0.1:{self.port}", "--control-port", str(self.control_port),
            ),
        )  # fmt: skip
        wait_until(lambda: "Uvicorn running" in self.log(SERVER), "the SuperLink's start", 120)
        for number in range(1, self.work.clients + 1):
            key = make_node_key(self.scratch / "keys" / f"{number}.key")
            wait_until(
                lambda number=number, key=key: self._enrolled(number, key.public_path),  # type: ignore[misc]
                "the enrolment",
                120,
            )
            self.supervise(client(number), lambda number=number: self._client(number))  # type: ignore[misc]
        wait_until(lambda: self._online() == self.work.clients, "the connection of all clients", 180, 1.0)

    def submit(self) -> None:
        """`bouquet train`, which follows the run and submits it again where its server dies."""
        self.train = self._bouquet(
            "train", "train", "--clients", str(self.work.clients), "--rounds", str(self.work.rounds),
            "--config", "fraction-evaluate=0.0", "--app", str(self.code),
            "--control-address", f"127.0.0.1:{self.control_port}", "--ca", str(self.pki / "ca.crt"),
        )  # fmt: skip

    def state(self) -> tuple[State, str]:
        """By the command's exit status."""
        status = self.train.poll()
        if status is None:
            return "runs", ""
        return ("done" if status in (0, 3) else "failed"), f"exit status {status}"

    def misses(self, number: int) -> bool:
        """By `bouquet members`."""
        try:
            listed = members.members(self.connection)
        except UserError:
            return False
        return any(each.name == client(number) and each.status == "offline" for each in listed)

    def result(self) -> str:
        """The last line of `bouquet train` and `summary.json`."""
        last = self.log("train").strip().splitlines()[-2:]
        summary = self.scratch / "results" / "latest" / "summary.json"
        return "\n".join([*last, summary.read_text(encoding="utf-8") if summary.exists() else ""])

    def _client(self, number: int) -> "subprocess.Popen[str]":
        return self._bouquet(
            client(number), "supernode", "--superlink", f"localhost:{self.server_port(number)}", "--health-port", "0",
            "--ca", str(self.pki / "ca.crt"), "--key", str(self.scratch / "keys" / f"{number}.key"),
            "--partition-id", str(number - 1), "--clients", str(self.work.clients), "--threads", "1",
        )  # fmt: skip

    def _bouquet(self, name: str, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "app.cli", *arguments]
        return self.processes.start(
            name, command, cwd=self.code, env={ROLE: name, "PYTHONPATH": str(self.code)}
        )

    def _enrolled(self, number: int, public_key: Path) -> bool:
        try:
            members.enroll(client(number), public_key, self.connection)
        except UserError:
            return False  # a busy machine: once more
        return True

    def _online(self) -> int:
        try:
            return sum(each.status == "online" for each in members.members(self.connection))
        except UserError:
            return 0


class Bouquet(Contender):
    """Its defaults."""

    key = "bouquet"
    title = "Bouquet"
    touched = ()

    @contextmanager
    def federation(self, scratch: Path, work: Work, raises: bool) -> Iterator[Federation]:
        """Certificates, keys and members are made anew."""
        env = {
            "BOUQUET_DATA": str(work.store), "BOUQUET_RESULTS": str(scratch / "results"),
            "FLWR_HOME": str(scratch / "flwr"), WORK_S: str(work.work_s),
            RAISES: f"1:{work.fault_round}" if raises else "",
        }  # fmt: skip
        port, line_port = free_ports(2)
        with Line(port, line_port) as line, Processes(scratch, env) as processes:
            yield BouquetFederation(processes, scratch, work, line, port)
