"""A Compose project that lives as long as its measurement."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.environments import ROOT
from bench.processes import Processes, free_ports

COMPOSE = ("docker", "compose", "--progress", "quiet", "--profile", "cpu")
BUILD_TIMEOUT_S = 3600.0


def build(processes: Processes) -> None:
    """Build Bouquet's own images from this checkout."""
    for name, command in (
        ("base", ("sh", "docker/base-image.sh")),
        ("build", (*COMPOSE, "build", "--quiet")),
    ):
        for _ in processes.run(name, command, BUILD_TIMEOUT_S, cwd=ROOT):
            pass


def missing() -> str:
    """Why containers cannot run here; empty where they can."""
    if shutil.which("docker") is None:
        return "Docker is not installed"
    for probe in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(probe, capture_output=True, timeout=60)
        except subprocess.TimeoutExpired:
            return f"`{' '.join(probe)}` does not answer"
        if done.returncode:
            return f"`{' '.join(probe)}` fails: no Docker daemon in reach, or no Compose"
    return ""


@contextmanager
def project(scratch: Path, **settings: str) -> Iterator[tuple[str, Processes]]:
    """Its name, and processes with its environment; afterwards it is removed with its volumes.

    Args:
        scratch: where the processes' logs go.
        settings: what differs from `.env`.
    """
    (port,) = free_ports(1)
    name = f"bouquet-bench-{os.getpid()}"
    env = {"COMPOSE_PROJECT_NAME": name, "FLEET_PORT": str(port), "FLEET_BIND": "127.0.0.1", **settings}
    try:
        with Processes(scratch, env) as processes:
            yield name, processes
    finally:  # after the processes, which would start containers again
        command = ["docker", "compose", "--profile", "*", "-p", name, "down", "--volumes", "--timeout", "5"]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, cwd=ROOT, capture_output=True, timeout=180)
