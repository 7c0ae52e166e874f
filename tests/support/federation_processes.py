"""Real processes: what is started here is ended here, and nothing may stay behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil

from app.fleet.host.ports import free_port
from app.fleet.warm.parent import PROCESS_NAME

ROOT = Path(__file__).resolve().parents[2]


def bouquet(
    *arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 240, cwd: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    """Run ``bouquet ARGUMENTS`` and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        capture_output=True, text=True, timeout=timeout, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
    )  # fmt: skip


def bouquet_until(
    words: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start ``bouquet ARGUMENTS`` and return it when it has printed a line with ``words``; the caller ends it.

    It minds Ctrl-C also where the tests run in the background of a shell, which ignores it.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            break
    return process


T = TypeVar("T")


def until(true: Callable[[], T], timeout_s: float, otherwise: Callable[[], str]) -> T:
    """Wait until ``true``, and return what it then is; else fail with ``otherwise``."""
    deadline = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.1)
    return found


def leftovers(mark: str) -> list[str]:
    """Command lines of processes whose environment or command line holds ``mark``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                words = [*process.cmdline(), *process.environ().values()]
                if any(mark in word for word in words):
                    found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


@dataclass
class Fleet:
    """A SuperLink and SuperNodes on loopback, started one by one."""

    folder: Path
    store: Path
    num_clients: int
    fleet_port: int = field(default_factory=free_port)
    control_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BOUQUET_DATA": str(self.store),
            "BOUQUET_RESULTS": str(self.folder / "results"),
            "NUM_CLIENTS": str(self.num_clients),
            "OMP_NUM_THREADS": "1",
            "BOUQUET_ALLOWED_APPS": "any",  # the tests bring their own
        }

    def start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start ``bouquet ARGUMENTS``."""
        return self.run(name, sys.executable, "-m", "app.cli", *arguments, **environment)

    def run(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start ``command`` with its output in ``<name>.log``."""
        # Flower's commands are found beside this Python.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**self.environment(), "PATH": path, "FLWR_HOME": str(self.folder / name), **environment},
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.processes[name] = process
        return process

    def superlink(self, **environment: str) -> subprocess.Popen[bytes]:
        return self.start(
            "superlink", "superlink", "--insecure",
            "--fleet-address", f"127.0.0.1:{self.fleet_port}", "--control-port", str(self.control_port),
            **environment,
        )  # fmt: skip

    def supernode(self, number: int, **environment: str) -> subprocess.Popen[bytes]:
        return self.start(
            f"supernode-{number}", "supernode", "--insecure", "--superlink", f"127.0.0.1:{self.fleet_port}",
            "--health-port", "0", **{"PARTITION_ID": str(number), **environment},
        )  # fmt: skip

    def train(self, config: str, project: Path = ROOT, name: str = "train") -> subprocess.Popen[bytes]:
        return self.start(
            name, "train", "--control-address", f"127.0.0.1:{self.control_port}",
            "--app", str(project), "--config", config,
        )  # fmt: skip

    def train_to_the_end(self, config: str, project: Path, timeout: float) -> tuple[int, str]:
        """Run an app; the exit status and the output of ``train``."""
        (self.folder / "train.log").unlink(missing_ok=True)
        status = self.train(config, project).wait(timeout)
        return status, self.log("train")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def replies(self) -> list[dict[str, Any]]:
        """What the app ``counting`` has printed so far, in order."""
        lines = [line for line in self.log("train").splitlines() if line.startswith("reply ")]
        return [json.loads(line.removeprefix("reply ")) for line in lines]

    def wait_for(self, name: str, words: str, timeout: float = 120) -> None:
        """Wait until a process's log holds ``words``."""
        deadline = time.monotonic() + timeout
        while words not in self.log(name):
            assert time.monotonic() < deadline, f"{name} never said {words!r}:\n{self.log(name)[-3000:]}"
            time.sleep(0.1)

    def descendants(self, name: str) -> list[psutil.Process]:
        return psutil.Process(self.processes[name].pid).children(recursive=True)

    def serverapps(self) -> list[psutil.Process]:
        """The processes in which the rounds of runs are."""
        alive = [each for each in self.descendants("superlink") if each.status() != psutil.STATUS_ZOMBIE]
        return [each for each in alive if "serverapp/program.py" in " ".join(each.cmdline())]

    def kill_serverapp(self) -> None:
        """SIGKILL the only ServerApp, and wait until it is gone."""
        (serverapp,) = self.serverapps()
        serverapp.kill()
        psutil.wait_procs([serverapp], 10)

    def warm_processes(self, name: str) -> list[psutil.Process]:
        """The warm parent of a SuperNode and what it has forked, eldest first."""
        return [process for process in self.descendants(name) if process.name() == PROCESS_NAME]

    @contextlib.contextmanager
    def taken_down(self) -> Iterator[Self]:
        """Stop all of it at the end, and fail where a process stays behind."""
        try:
            yield self
        finally:
            self.stop()
            mark = str(self.folder)
            until(lambda: not leftovers(mark), 60, lambda: f"a process stayed behind: {leftovers(mark)}")

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            family = []
            with contextlib.suppress(psutil.Error):
                family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for member in family:
                with contextlib.suppress(psutil.Error):
                    member.kill()
        self.processes.clear()
