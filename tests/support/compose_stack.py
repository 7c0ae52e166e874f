"""One Compose project for a test: commands, questions about its containers, and its end."""

import json
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

from container_engine import ROOT, build_environment

LABEL = "com.docker.compose.project"


def docker(*arguments: str, timeout: float = 120) -> str:
    """Standard output of a docker command that must succeed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def eventually(question: Callable[[], bool], *, within: float, what: str) -> None:
    """Wait until `question` says yes; fail with `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while not question():
        assert time.monotonic() < deadline, f"not within {within:.0f} s: {what}"
        time.sleep(1)


class Stack:
    """`compose.yaml` under a project name of its own, on a free port of loopback."""

    def __init__(self, tag: str, settings: Mapping[str, str]) -> None:
        self.name = f"bouquet-test-{secrets.token_hex(4)}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.environment = build_environment(tag) | {
            "COMPOSE_PROJECT_NAME": self.name,
            "FLEET_BIND": "127.0.0.1",
            "FLEET_PORT": str(self.port),
            **settings,
        }

    def run(self, *arguments: str, timeout: float = 300, **settings: str) -> subprocess.CompletedProcess[str]:
        """`docker compose --profile cpu ARGUMENTS`, whatever its status."""
        return subprocess.run(
            ["docker", "compose", "--profile", "cpu", *arguments],
            cwd=ROOT, env=self.environment | settings, capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def compose(self, *arguments: str, timeout: float = 300, **settings: str) -> str:
        """Standard output of a Compose command that must succeed."""
        done = self.run(*arguments, timeout=timeout, **settings)
        assert done.returncode == 0, (
            f"docker compose {' '.join(arguments)}\n{done.stdout}\n{done.stderr}\n{self.logs()[-8000:]}"
        )
        return done.stdout

    def containers(self, service: str | None = None, *, all_states: bool = False) -> list[str]:
        """Ids of the project's containers."""
        filters = ["--filter", f"label={LABEL}={self.name}"]
        if service is not None:
            filters += ["--filter", f"label=com.docker.compose.service={service}"]
        return docker("ps", "--quiet", "--no-trunc", *(["--all"] if all_states else []), *filters).split()

    def inspect(self, container: str) -> dict[str, Any]:
        """What Docker knows about a container."""
        found: list[dict[str, Any]] = json.loads(docker("inspect", container))
        return found[0]

    def wait(self, service: str, *, timeout: float) -> int:
        """The exit status of a one-shot service, which must have been started."""
        (container,) = self.containers(service, all_states=True)
        return int(docker("wait", container, timeout=timeout))

    def logs(self, service: str = "") -> str:
        """All that the project, or one service, has printed."""
        done = self.run("logs", "--no-color", "--no-log-prefix", *([service] if service else []))
        return done.stdout + done.stderr

    def inside(self, container: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container, whatever its status."""
        return subprocess.run(
            ["docker", "exec", container, *command], capture_output=True, text=True, timeout=60
        )

    def latest(self, file: str) -> str:
        """A file of the latest run's results."""
        return self.compose("exec", "-T", "superlink", "cat", f"/results/latest/{file}")

    def partition_ids(self) -> dict[str, int]:
        """The id that each running client said it holds when it last started."""
        ids = {}
        for container in self.containers("supernode-cpu"):
            said = re.findall(r"partition-id (\d+) of", docker("logs", container))
            if said:
                ids[container] = int(said[-1])
        return ids

    def left_over(self) -> list[str]:
        """Containers, networks and volumes that still carry the project's name."""
        label = f"label={LABEL}={self.name}"
        return [
            *docker("ps", "--all", "--quiet", "--filter", label).split(),
            *docker("network", "ls", "--quiet", "--filter", label).split(),
            *docker("volume", "ls", "--quiet", "--filter", label).split(),
        ]

    def remove(self) -> None:
        """Take everything down, also what a failed test left half up."""
        self.run("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "2")
        for container in self.containers(all_states=True):
            docker("rm", "--force", "--volumes", container)
