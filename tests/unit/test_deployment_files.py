"""The files that deploy hold together: compose.yaml and .env, lock files and pyproject.toml, the Dockerfile."""

import json
import re
import shutil
import socket
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = (ROOT / "compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
SETTINGS = dict(
    line.split("=", 1)
    for line in (ROOT / ".env").read_text().splitlines()
    if "=" in line and not line.startswith("#")
)
LOCKS = {
    name: (ROOT / "docker" / f"{name}.txt").read_text()
    for name in ("requirements", "torch", "dev", "monitor", "export", "simulation")
}


def locked(*names: str) -> dict[str, str]:
    """Package to version, of these lock files."""
    return {
        package: version
        for name in names
        for package, version in re.findall(r"^([a-z0-9-]+)==([^ ;]+)", LOCKS[name], re.MULTILINE)
    }


def mounts(service: str) -> set[str]:
    """Names of the volumes that a service mounts."""
    return {
        volume.split(":")[0] if isinstance(volume, str) else volume["source"]
        for volume in SERVICES[service].get("volumes", [])
    }


def test_ten_clients_unless_told_otherwise() -> None:
    """A plain `up` starts as many replicas as there are partitions, on the GPU."""
    assert (SETTINGS["NUM_CLIENTS"], SETTINGS["COMPOSE_PROFILES"]) == ("10", "gpu")
    for service, profile in (("supernode", "gpu"), ("supernode-cpu", "cpu")):
        assert SERVICES[service]["profiles"] == [profile]
        assert SERVICES[service]["deploy"]["replicas"] == "${NUM_CLIENTS:-10}"


HOSTS = {
    f"{kind}/{name}": settings
    for kind in ("server", "client")
    for name, settings in yaml.safe_load((ROOT / "deploy" / "hosts" / f"{kind}.compose.yaml").read_text())[
        "services"
    ].items()
}


@pytest.mark.parametrize("service", sorted(SERVICES | HOSTS))
def test_services_are_hardened(service: str) -> None:
    """Read-only, without capabilities or new privileges, bounded; health is the image's own affair."""
    settings = (SERVICES | HOSTS)[service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["mem_limit"] and settings["pids_limit"]
    assert settings["ulimits"]["core"] == 0 and settings["tmpfs"] == ["/tmp:size=1g,mode=1777"]
    assert "privileged" not in settings and "user" not in settings


def test_secrets_have_few_readers() -> None:
    """The CA's key: pki. The server's key: pki and the SuperLink. Clients' keys: pki, and who hands them out."""
    readers = {volume: {name for name in SERVICES if volume in mounts(name)} for volume in
               ("pki-ca", "pki-server", "client-keys")}  # fmt: skip
    assert readers == {
        "pki-ca": {"pki"},
        "pki-server": {"pki", "superlink"},
        "client-keys": {"pki", "keys"},
    }


def test_one_port_for_others() -> None:
    """9092; who needs the Control API has its socket, and no network. Pages are on loopback, when they are asked for."""
    published = {name: service["ports"] for name, service in SERVICES.items() if service.get("ports")}
    assert [port.rsplit(":", 1)[1] for port in published.pop("superlink")] == ["9092"]
    for name, ports in published.items():
        assert SERVICES[name]["profiles"] == ["monitor"]
        assert all(port.startswith("127.0.0.1:") for port in ports)
    for name in ("enroll", "train"):
        assert SERVICES[name]["network_mode"] == "none"
    assert {name for name in SERVICES if "control" in mounts(name)} == {"superlink", "enroll", "train"}


def test_every_dependency_is_locked_with_hashes() -> None:
    """What pyproject.toml asks for stands in a lock, nothing twice, and each entry has hashes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    for group in ("test", "lint"):
        wanted += project["dependency-groups"][group]
    have = locked(*LOCKS)
    for requirement in wanted:
        name = re.split(r"[^A-Za-z0-9-]", requirement)[0].lower()
        assert name in have, f"{name} is not locked: run docker/lock.sh"
    assert have["flwr"].startswith("1.39.")
    assert sum(len(locked(name)) for name in LOCKS) == len(have)
    for text in LOCKS.values():
        assert text.count("--hash=sha256:") >= len(re.findall(r"^[a-z]", text, re.MULTILINE))


def test_locks_hold_no_address() -> None:
    """Any index or mirror serves; none is written down."""
    for name, text in LOCKS.items():
        assert "://" not in text and "--index" not in text and "--find-links" not in text, name


def test_torch_and_torchvision_stand_apart() -> None:
    """The pair comes from one index, so that the CPU's can serve both; CUDA comes with it."""
    assert {"torch", "torchvision"} <= locked("torch").keys()
    apart = re.compile("torch|torchvision|triton|nvidia-.*|cuda-.*")
    assert not [name for name in locked("requirements") if apart.fullmatch(name)]
    assert not [name for name in locked("torch") if not apart.fullmatch(name)]


def test_images_run_without_root() -> None:
    """Numeric, so that Kubernetes can verify it; the same base for all, and nothing fetched to parse the file."""
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)", dockerfile, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^FROM app AS (.*)", dockerfile, re.MULTILINE) == ["superlink", "supernode", "monitor"]
    assert "syntax=" not in dockerfile
    assert dockerfile.count("\nHEALTHCHECK ") == 2


def test_the_build_context_is_a_list_of_what_is_needed() -> None:
    """Keys, data and results of the working tree never reach the builder."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert allowed == {
        "pyproject.toml", "README.md", "LICENSE", "app", "bouquet", "docs/troubleshooting.md", "docker/build",
        "docker/requirements.txt", "docker/torch.txt", "docker/torch-cpu.txt", "docker/dev.txt", "docker/monitor.txt",
    }  # fmt: skip


def choose_mode(path: Path, mode: str = "auto") -> subprocess.CompletedProcess[str]:
    """Run docker/choose-mode.sh with only `path` to find commands in."""
    shell = shutil.which("sh")
    assert shell is not None
    return subprocess.run(
        [shell, str(ROOT / "docker" / "choose-mode.sh"), mode],
        env={"PATH": str(path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def commands(folder: Path, **scripts: str) -> Path:
    """A folder with these commands and what the script itself needs."""
    for name in ("dirname", "sh", "grep", "sed"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("version", ["2.19.1", "v2.4.0", "1.29"])
def test_a_compose_that_is_too_old_for_the_files_is_said_first(tmp_path: Path, version: str) -> None:
    old = commands(tmp_path, docker=f'[ "$4" != --short ] && [ "$3" != --short ] || echo {version}')
    for name in ("sort", "head"):
        (old / name).symlink_to(str(shutil.which(name)))
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run(
        [shell, str(ROOT / "docker" / "run-compose.sh"), "compose-cpu"],
        env={"PATH": str(old)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "needs 2.20" in done.stderr and len(done.stderr.splitlines()) == 1, done


@pytest.mark.parametrize(
    ("scripts", "mode", "why"),
    [
        ({}, "local", "no docker command"),
        ({"docker": "exit 1"}, "local", "no Docker engine answers"),
        ({"docker": '[ "$1" != compose ]'}, "local", "no Compose v2"),
        ({"docker": '[ "$1" != image ] && [ "$1" != pull ]', "id": "echo 1000"}, "local", "the base image"),
        ({"docker": "exit 0"}, "compose-cpu", "no NVIDIA GPU"),
        ({"docker": "exit 0", "nvidia-smi": "exit 0"}, "compose-cpu", "no NVIDIA GPU"),
        ({"docker": "echo Runtimes: nvidia runc", "nvidia-smi": "exit 0"}, "compose-gpu", "NVIDIA GPU"),
    ],
)  # fmt: skip
def test_make_run_picks_what_works_here(tmp_path: Path, scripts: dict[str, str], mode: str, why: str) -> None:
    """GPU containers, CPU containers or plain processes, and one line that says why."""
    done = choose_mode(commands(tmp_path, **scripts))
    assert (done.returncode, done.stdout) == (0, f"{mode}\n"), done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("MODE=")]
    assert len(said) == 1 and said[0].startswith(f"MODE={mode}: ") and why in said[0]


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    """With the ones that there are."""
    done = choose_mode(commands(tmp_path), "cloud")
    assert done.returncode == 2
    assert "MODE=cloud" in done.stderr and "compose-cpu" in done.stderr


def _health_checks() -> list[list[str]]:
    """The commands of the images' health checks."""
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", "")
    return [json.loads(words) for words in re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", dockerfile, re.M)]


def test_a_container_is_well_when_all_of_its_ports_answer() -> None:
    """The commands of the images' health checks, with other ports in them."""
    checks = _health_checks()
    ports = [re.findall(r"127\.0\.0\.1/(\d+)", check[-1]) for check in checks]
    assert ports == [["9096", "8000"], ["9095"]]
    with listening(b"SERVING\n") as answers, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refuses = str(closed.getsockname()[1])
        for (*shell, check), used in zip(checks, ports, strict=True):
            for silent in (None, *used):
                command = check
                for port in used:
                    command = command.replace(f"/{port}", f"/{refuses if port == silent else answers}")
                done = subprocess.run([*shell, command], capture_output=True, timeout=10)
                assert (done.returncode == 0) == (silent is None), command


@pytest.mark.parametrize("words", [b"NOT_SERVING\n", b""], ids=["said so", "hangs"])
def test_a_superlink_whose_fleet_api_does_not_work_is_not_well(words: bytes) -> None:
    [*shell, check] = _health_checks()[0]
    with listening(words) as port:
        command = re.sub(r"/(9096|8000)", f"/{port}", check).replace("-rt 8", "-rt 1")
        assert subprocess.run([*shell, command], capture_output=True, timeout=10).returncode != 0


@contextmanager
def listening(words: bytes) -> Iterator[int]:
    """A port of loopback whose connections get ``words``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        open_ones = []

        def greet() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    open_ones.append(connection)
                    connection.sendall(words)

        threading.Thread(target=greet, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        for connection in open_ones:
            connection.close()
