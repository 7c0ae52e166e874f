"""What is installed and built on is locked: packages with hashes, actions and base images by digest."""

import json
import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def locked(*names: str) -> dict[str, str]:
    """Package to version, of these lock files."""
    text = "".join((DOCKER / f"{name}.txt").read_text() for name in names)
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", text, re.MULTILINE))


def test_cryptography_is_past_its_advisory() -> None:
    """flwr 1.39 would hold it at 46; wheels below 48.0.1 are vulnerable."""
    assert int(locked("requirements")["cryptography"].split(".")[0]) >= 50


@pytest.mark.skipif(
    "CI" not in os.environ, reason="elsewhere `make` makes an environment that is out of date anew"
)
def test_what_is_installed_is_what_is_locked() -> None:
    """Above all the package that another one would hold back."""
    wrong = {}
    for name, wanted in locked("requirements", "dev").items():
        try:
            found = version(name)
        except PackageNotFoundError:  # of another system
            continue
        if found != wanted:
            wrong[name] = f"{found}, not {wanted}"
    assert not wrong, "make the virtual environment anew: make venv"


def test_every_locked_file_has_a_hash() -> None:
    for file in DOCKER.glob("*.txt"):
        entries = re.split(r"^(?=[a-z])", file.read_text(), flags=re.MULTILINE)
        assert all("--hash=sha256:" in entry for entry in entries if entry.strip()), file.name


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_taken_by_digest(workflow: Path) -> None:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    used = [step["uses"] for job in jobs for step in job["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in used)


def test_released_images_start_from_a_digest() -> None:
    """A build of one's own starts from the same name with its security updates."""
    texts = [(ROOT / name).read_text() for name in (".env", "compose.yaml")]
    (own,) = {name for text in texts for name in re.findall(r"debian:[\w.-]+", text)}
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    assert re.search(rf"^ARG BASE_IMAGE={re.escape(own)}@sha256:[0-9a-f]{{64}}$", dockerfile, re.MULTILINE)
    assert "BASE_IMAGE" not in (ROOT / ".github" / "workflows" / "release.yml").read_text()


def test_released_images_have_provenance_and_a_list_of_what_is_inside() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert "--provenance=mode=max --sbom=true" in text
    assert {"bouquet-superlink", "bouquet-supernode"} <= set(re.findall(r"image: (\S+),", text))


def torch_of(folder: Path, index: str) -> list[str]:
    """The arguments with which docker/build/torch.sh installs from `index`, with the locks in `folder`."""
    script = (DOCKER / "build" / "torch.sh").read_text().replace("/opt/lock", str(folder))
    lines = (
        script.partition("\n# What only")[0]
        .replace("/opt/uv/bin/uv", "echo")
        .replace("/tmp/uv.log", "/dev/stderr")
    )
    done = subprocess.run(["sh", "-c", lines, "torch.sh", index], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_builds_of_pytorchs_own_index_are_hash_checked(tmp_path: Path) -> None:
    """Where their lock is there; the others always are."""
    shutil.copy(DOCKER / "torch.txt", tmp_path)
    assert "--require-hashes" in torch_of(tmp_path, "")
    assert "--require-hashes" not in torch_of(tmp_path, "https://index.example")
    (tmp_path / "torch-cpu.txt").touch()
    arguments = torch_of(tmp_path, "https://index.example")
    assert "--require-hashes" in arguments and str(tmp_path / "torch-cpu.txt") in arguments


@pytest.mark.skipif(not (ROOT / "build" / "sbom.cdx.json").exists(), reason="make sbom has not run here")
def test_the_sbom_lists_every_package_of_the_images() -> None:
    listed = json.loads((ROOT / "build" / "sbom.cdx.json").read_text())
    assert listed["bomFormat"] == "CycloneDX"
    have = {part["name"]: part["version"] for part in listed["components"]}
    wanted = locked("requirements", "torch")
    del wanted["uv"]  # it builds the images and stays outside
    assert have == wanted
