"""NVIDIA FLARE as its documentation deploys it: provisioned kits, each started with its own command."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.contenders.flare import missing, variables
from bench.environments import FLARE, ROOT
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
from bench.processes import Processes, free_ports
from bench.workload import TUTORIAL_MODEL

OPERATOR = (FLARE.python, "-m", "bench.faults.flare_operator")


@dataclass
class FlareFederation(Federation):
    """An operator's program beside it submits the job and says how it stands."""

    touched: bool = False

    def start(self) -> None:
        """Provision; then server and clients, which the operator's program waits for."""
        for _ in self.processes.run("prepare", self._operator("prepare"), 180, cwd=ROOT):
            pass
        for name in (SERVER, *map(client, range(1, self.work.clients + 1))):
            self.supervise(name, lambda name=name: self._start(name))  # type: ignore[misc]

    def submit(self) -> None:
        """The program submits the job when all clients are in."""
        self.processes.start("operator", self._operator("follow"), cwd=ROOT)
        wait_until(lambda: bool(self._told()), "the submission of the job", 240, 1.0)

    def state(self) -> tuple[State, str]:
        """As `nvflare job list` has it."""
        told = self._told()
        word = str(told[-1]["status"]) if told else ""
        if not word.startswith("FINISHED"):
            return "runs", word
        return ("done" if word == "FINISHED:COMPLETED" else "failed"), word

    def misses(self, number: int) -> bool:
        """By the server's list of clients, or a line of its log about the client's end."""
        if (told := self._told()) and client(number) not in told[-1]["clients"]:
            return True
        words = ("dead client", "dead job", "deemed disconnected", "is dead")
        lines = self.log(SERVER).splitlines()
        return any(client(number) in line and any(word in line.lower() for word in words) for line in lines)

    def result(self) -> str:
        """The job's record."""
        return json.dumps(self._told()[-1], indent=1)

    def _told(self) -> list[dict[str, Any]]:
        found = []
        for line in self.log("operator").splitlines():
            if line.startswith("{"):
                with suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def _operator(self, what: str) -> list[str | Path]:
        return [
            *(*OPERATOR, what, "--workspace", self.scratch, "--port", str(self.port)),
            *("--line-port", str(self.line.port), "--clients", str(self.work.clients)),
            *("--rounds", str(self.work.rounds), *(["--touched"] if self.touched else [])),
        ]

    def _start(self, name: str) -> "subprocess.Popen[str]":
        script = self.scratch / "bench" / "prod_00" / name / "startup" / "sub_start.sh"
        return self.processes.start(name, ["bash", script, "--once"], env={ROLE: name})


class Flare(Contender):
    """Its FedAvg recipe as it comes, or with the settings that let a job stand the most."""

    def __init__(self, *, touched: bool) -> None:
        self.key = "flare-touched" if touched else "flare"
        self.title = "NVIDIA FLARE" + (", settings touched" if touched else ", recipe as it comes")
        self.touched = (
            (
                "job API in place of the recipe", "`min_clients`", "`ignore_result_error`", "`heart_beat_timeout`",
                "`dead_client_grace_period`", "`dead_client_check_lead_time`",
            )
            if touched
            else ()
        )  # fmt: skip

    def missing(self) -> str:
        """Why it cannot run here; empty when it can."""
        return missing(FLARE)

    @contextmanager
    def federation(self, scratch: Path, work: Work, raises: bool) -> Iterator[Federation]:
        """On loopback, with FLARE's mutual TLS over gRPC."""
        env = variables(FLARE, scratch, work.store, TUTORIAL_MODEL, work.clients, evaluating=0) | {
            WORK_S: str(work.work_s),
            RAISES: f"1:{work.fault_round}" if raises else "",
        }
        port, line_port = free_ports(2)
        with Line(port, line_port) as line, Processes(scratch, env) as processes:
            yield FlareFederation(processes, scratch, work, line, port, touched=bool(self.touched))
