"""Whether containers can run here, and what their tools need of this machine."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]


def cannot_run(reason: str) -> NoReturn:
    """Skip, or fail where containers were promised: BOUQUET_REQUIRE_CONTAINERS=1."""
    if os.environ.get("BOUQUET_REQUIRE_CONTAINERS"):
        pytest.fail(f"BOUQUET_REQUIRE_CONTAINERS is set, but {reason}", pytrace=False)
    pytest.skip(reason)


def require_engine() -> None:
    """Go on where a Docker engine with Compose v2 answers."""
    if shutil.which("docker") is None:
        cannot_run("there is no docker command")
    for command, lacking in (
        (["docker", "info"], "no Docker engine answers"),
        (["docker", "compose", "version"], "this Docker has no Compose v2"),
    ):
        if subprocess.run(command, capture_output=True, timeout=60).returncode:
            cannot_run(lacking)


@cache
def base_image() -> str:
    """The image to build on: as in .env, or one of that name without the digest, which was built on this machine."""
    dotenv = (line.partition("=") for line in (ROOT / ".env").read_text().splitlines())
    pinned = os.environ.get("BASE_IMAGE") or next(value for name, _, value in dotenv if name == "BASE_IMAGE")
    local = pinned.partition("@")[0]
    for name in (pinned, local):
        known = subprocess.run(["docker", "image", "inspect", name], capture_output=True, timeout=60)
        if known.returncode == 0:
            return name
    return pinned


def build_environment(tag: str) -> dict[str, str]:
    """What `docker compose` needs of this machine's environment, and nothing that would change the settings."""
    kept = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "BUILD_NETWORK")
    trusted = (
        os.environ.get("CA_CERTIFICATES") or os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    )
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "IMAGE_TAG": tag,
        "BASE_IMAGE": base_image(),
        "CA_CERTIFICATES": trusted or "/dev/null",
    }


def build_images(tag: str) -> None:
    """Build both images from the working tree; BuildKit's cache makes a second time quick."""
    base = subprocess.run(
        ["sh", "docker/base-image.sh"],
        cwd=ROOT, env=build_environment(tag), capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    if base.returncode:
        cannot_run(base.stderr.strip().splitlines()[-1])
    built = subprocess.run(
        ["docker", "compose", "--profile", "cpu", "build", "--quiet"],
        cwd=ROOT, env=build_environment(tag), capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-4000:]
