"""A federation with certificates and keys, as it is deployed, for the tests that break a part of it."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from federation_processes import ROOT, Fleet, bouquet, until

from app.fleet.control import Connection
from app.fleet.identity.members import members

HELD = Path(__file__).parent / "held"  # of Python's sitecustomize
COUNTING = ROOT / "tests" / "federation" / "apps" / "counting"


@dataclass
class Federation(Fleet):
    """Its clients keep their identity when they start again, and its SuperLink keeps its members.

    Attributes:
        lines: the port that a client dials where it is not the SuperLink's own.
        more: environment of every process, beside that of a ``Fleet``.
    """

    lines: dict[int, int] = field(default_factory=dict)
    more: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return super().environment() | self.more

    def make_identities(self) -> None:
        """A CA, the server's certificate and a key for each client."""
        done = bouquet(
            "pki", "all", "--dir", str(self.folder / "ca"), "--out", str(self.folder / "server"),
            "--keys", str(self.folder / "keys"), "--public", str(self.public), environment={"NUM_CLIENTS": str(self.num_clients)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    @property
    def public(self) -> Path:
        return self.folder / "public"

    @property
    def control(self) -> list[str]:
        return ["--control-address", f"127.0.0.1:{self.control_port}", "--ca", str(self.public / "ca.crt")]

    def superlink(self, **environment: str) -> subprocess.Popen[bytes]:
        return self.start(
            "superlink", "superlink", "--certificates", str(self.folder / "server"), "--state", str(self.folder / "state"),
            "--fleet-address", f"127.0.0.1:{self.fleet_port}", "--control-port", str(self.control_port),
            **environment,
        )  # fmt: skip

    def superlink_that_holds(self, function: str, call: int) -> Path:
        """A SuperLink whose ServerApp is held when it calls ``function`` (of a file, ``file.py:name``) for the ``call``-th time; the file that says so."""
        mark = self.folder / "held"
        mark.unlink(missing_ok=True)
        path = os.pathsep.join([str(HELD), str(ROOT)])
        self.superlink(PYTHONPATH=path, HOLD_AT=function, HOLD_CALL=str(call), HOLD_MARK=str(mark))
        return mark

    def start_all(self) -> None:
        """The SuperLink and all clients."""
        self.superlink()
        self.enroll()
        for number in range(self.num_clients):
            self.supernode(number)

    def enroll(self) -> None:
        """Let the clients in, when the SuperLink is up."""
        done = bouquet("enroll-all", str(self.public), *self.control)
        assert done.returncode == 0, done.stderr

    def supernode(self, number: int, **environment: str) -> subprocess.Popen[bytes]:
        port = self.lines.get(number, self.fleet_port)
        return self.start(
            f"supernode-{number}", "supernode", "--superlink", f"localhost:{port}", "--health-port", "0",
            "--ca", str(self.public / "ca.crt"), "--key", str(self.folder / "keys" / f"{number}.key"),
            PARTITION_ID=str(number), **environment,
        )  # fmt: skip

    def train(self, config: str, project: Path = ROOT, *options: str) -> subprocess.Popen[bytes]:
        return self.start(
            "train", "train", *self.control, "--app", str(project), "--config", config, *options
        )

    def status_of(self, number: int) -> str:
        """How a client stands with the SuperLink: enrolled, online or offline."""
        connection = Connection(f"127.0.0.1:{self.control_port}", self.public / "ca.crt")
        return next(each.status for each in members(connection) if each.name == f"client-{number}")

    def wait_until_offline(self, number: int) -> None:
        until(lambda: self.status_of(number) == "offline", 60, lambda: self.log("superlink")[-2000:])

    def outage(self, seconds: float) -> None:
        """Let time pass in which a part is missing."""
        time.sleep(seconds)

    def serverapp(self) -> psutil.Process:
        """The process of the ServerApp, as soon as there is one."""
        return until(self.serverapps, 60, lambda: self.log("train")[-2000:] + self.log("superlink")[-2000:])[
            0
        ]

    def wait_for_round(self, number: int) -> None:
        """Wait until ``train`` has told of a round."""
        self.wait_for("train", f"round {number}/", 180)

    @property
    def results(self) -> Path:
        return self.folder / "results" / "latest"

    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.results / "summary.json").read_text())
        return content

    def rounds(self, run: Path | None = None) -> list[int]:
        """The rounds in the history of a run, in its order; no client stands twice in a phase of one."""
        with ((run or self.results) / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        keys = [(row["round"], row["phase"], row["partition_id"]) for row in rows]
        assert len(keys) == len(set(keys)), keys
        return [int(row["round"]) for row in rows if row["phase"] == "server"]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The run's events of one kind."""
        lines = (self.results / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def kill(self, name: str) -> None:
        """SIGKILL a process, as a power cut does; what it has started ends by itself."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def power_cut(self) -> None:
        """SIGKILL the SuperLink and all that it has started, at once."""
        family = self.descendants("superlink")
        self._send_to_all("superlink", signal.SIGSTOP)
        self.processes["superlink"].kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.processes.pop("superlink").wait()

    def stop_one(self, name: str) -> None:
        """SIGTERM a process."""
        process = self.processes.pop(name)
        process.terminate()
        process.wait(30)

    def restart(self, number: int, **environment: str) -> None:
        """Stop a client as its operator does, and start it anew."""
        self.stop_one(f"supernode-{number}")
        self.supernode(number, **environment)

    def children_at_work(self, name: str) -> list[psutil.Process]:
        """The processes of a SuperNode that run a message."""
        return self.warm_processes(name)[2:]

    def wait_until_at_work(self, name: str) -> psutil.Process:
        """The process that trains on a client, as soon as there is one."""
        return until(
            lambda: self.children_at_work(name),
            90,
            lambda: self.log("train")[-2000:] + self.log(name)[-2000:],
        )[0]

    def wait_for_replies(self, count: int, timeout_s: float = 120) -> list[dict[str, Any]]:
        """The first replies that the app ``counting`` has printed."""
        until(
            lambda: len(self.replies()) >= count,
            timeout_s,
            lambda: (
                self.log("train")[-2000:] + self.log("supernode-0")[-3000:] + self.log("superlink")[-2000:]
            ),
        )
        return self.replies()

    def pause(self, name: str) -> None:
        """Stop a process where it is, as a machine that sleeps does."""
        self._send_to_all(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a process go on."""
        self._send_to_all(name, signal.SIGCONT)

    def _send_to_all(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)  # it starts no more
        for process in self.descendants(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
