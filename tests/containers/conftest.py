"""A federation in real containers: images built once, projects with names of their own, everything removed.

Without an engine these tests are skipped, and the reason is shown; BOUQUET_REQUIRE_CONTAINERS=1 makes that
a failure.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import NoReturn

import pytest
from compose_stack import ROOT, Stack, build_environment


def cannot_run(reason: str) -> NoReturn:
    """Skip, or fail where containers were promised."""
    if os.environ.get("BOUQUET_REQUIRE_CONTAINERS"):
        pytest.fail(f"BOUQUET_REQUIRE_CONTAINERS is set, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine with Compose v2 that answers."""
    if shutil.which("docker") is None:
        cannot_run("there is no docker command")
    for command, lacking in (
        (["docker", "info"], "no Docker engine answers"),
        (["docker", "compose", "version"], "this Docker has no Compose v2"),
    ):
        if subprocess.run(command, capture_output=True, timeout=60).returncode:
            cannot_run(lacking)


@pytest.fixture(scope="session")
def images(engine: None) -> Iterator[str]:
    """The tag of both images, built from the working tree; BuildKit's cache makes a second time quick."""
    tag = f"test-{os.getpid()}"
    environment = build_environment(tag)
    base = subprocess.run(
        ["sh", "docker/base-image.sh"], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    if base.returncode:
        cannot_run(base.stderr.strip().splitlines()[-1])
    built = subprocess.run(
        ["docker", "compose", "--profile", "cpu", "build", "--quiet"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-4000:]
    yield tag
    names = [f"bouquet-superlink:{tag}", f"bouquet-supernode:{tag}-cpu"]
    subprocess.run(["docker", "rmi", "--force", *names], capture_output=True, timeout=300)


@pytest.fixture(scope="session")
def trained(images: str) -> Iterator[Stack]:
    """Ten CPU clients that have trained once on digits, still up."""
    stack = Stack(images, {"DATASET": "digits", "NUM_CLIENTS": "10"})
    try:
        # Literally what the README says, plus --detach.
        stack.compose("up", "--detach", "--scale", "supernode-cpu=10", timeout=600)
        stack.wait("train", timeout=900)
        yield stack
    finally:
        stack.remove()
