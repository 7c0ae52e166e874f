"""The images that the pods run, built from the working tree."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .render import missing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def images() -> Iterator[str]:
    """The images' tag. BuildKit's cache makes this quick where other container tests have built before."""
    if shutil.which("docker") is None:
        missing("there is no docker command")
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        if subprocess.run(command, capture_output=True, timeout=60).returncode:
            missing(f"`{' '.join(command)}` fails: no Docker engine with Compose v2")
    base = subprocess.run(
        ["sh", "docker/base-image.sh"], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    if base.returncode:
        missing(base.stderr.strip())
    tag = f"pods-{os.getpid()}"
    trusted = (
        os.environ.get("CA_CERTIFICATES") or os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    )
    built = subprocess.run(
        ["docker", "compose", "--profile", "cpu", "build", "--quiet"],
        cwd=ROOT,
        env=os.environ | {"IMAGE_TAG": tag, "CA_CERTIFICATES": trusted or "/dev/null"},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert built.returncode == 0, built.stderr[-4000:]
    yield tag
    names = [f"bouquet-superlink:{tag}", f"bouquet-supernode:{tag}-cpu"]
    subprocess.run(["docker", "rmi", "--force", *names], capture_output=True, timeout=300)
