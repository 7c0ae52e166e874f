"""Apps as people write them, unchanged, one after another on one federation of containers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_stack import Stack, docker
from container_engine import ROOT, build_environment
from federation_processes import bouquet

from bench.examples.containers import with_hub

pytestmark = pytest.mark.containers

EXAMPLES = ROOT / "examples"
NEED_PACKAGES = (EXAMPLES / "text_lora",)
APPS = {
    ROOT / "tests" / "apps" / "numpy_only": (0.8, "final_model.npz"),
    EXAMPLES / "tables": (0.9, "model.npz"),
    EXAMPLES / "text_lora": (0.9, "adapters.pt"),
}


@pytest.fixture
def with_packages(images: str) -> Iterator[str]:
    """The tag of images with the packages of the apps that ask for some, each `bouquet image` on top of the one before."""
    tags = [images]
    try:
        for app in NEED_PACKAGES:
            tags.append(f"{images}-{app.name}")
            built = bouquet(
                "image", "--app", str(app), "--base", tags[-2], "--tag", tags[-1],
                environment=build_environment(images), timeout=900,
            )  # fmt: skip
            assert built.returncode == 0, built.stdout + built.stderr
        yield tags[-1]
    finally:
        for tag in reversed(tags[1:]):
            docker("rmi", "--force", f"bouquet-superlink:{tag}", f"bouquet-supernode:{tag}-cpu")


def _hash(app: Path) -> str:
    return bouquet("app-hash", str(app)).stdout.strip()


@pytest.mark.timeout(1800)
def test_apps_run_unchanged_and_their_results_are_collected(with_packages: str) -> None:
    first = next(iter(APPS))
    settings = {
        "NUM_CLIENTS": "3",
        "DATASET": "",
        "BOUQUET_ALLOWED_APPS": ",".join(map(_hash, APPS)),
    }
    stack = Stack(with_packages, settings)
    try:
        stack.compose("up", "--detach", timeout=300, APP=str(first))
        assert stack.wait("train", timeout=300) == 0, stack.logs()
        for app, (least, leaves) in APPS.items():
            if app != first:
                stack.compose("run", "--rm", "--no-deps", "--no-TTY", "train", timeout=600, APP=str(app))
            summary = json.loads(stack.latest("summary.json"))
            assert summary["app"].endswith(f"/{app.name.replace('_', '-')}"), summary["app"]
            assert summary["participation"] == "3 of 3 clients took part whenever they were asked"
            rounds = re.findall(r"^round \d+: \D*([\d.]+)", stack.latest("log.txt"), re.MULTILINE)
            assert float(rounds[-1]) > least, rounds
            (superlink,) = stack.containers("superlink")
            assert stack.inside(superlink, "ls", "/results/latest/artefacts").stdout.split() == [leaves]
        assert "loads the app anew" not in stack.logs("supernode-cpu")
    finally:
        stack.remove()


@pytest.mark.timeout(900)
def test_the_tutorial_in_the_old_style_fetches_its_data_and_learns(
    images: str, cifar10: Path, tmp_path: Path
) -> None:
    """From a hub, which is a container beside the clients here; such an app makes connections."""
    app = ROOT / "tests" / "apps" / "tutorial"
    hub = with_hub(tmp_path / "hub.yaml", images, {"uoft-cs/cifar10": cifar10})
    settings = {"NUM_CLIENTS": "3", "APP": str(app), "BOUQUET_CONFINEMENT": "off"}
    config = {"CONFIG": "min-clients=3 num-server-rounds=4", "COMPOSE_FILE": f"compose.yaml:{hub}"}
    stack = Stack(images, settings | config)
    try:
        stack.compose("up", "--detach", timeout=300)
        assert stack.wait("train", timeout=600) == 0, stack.logs()
        (found,) = re.findall(r"\{'accuracy': \[(.*)\]", stack.logs("train"))
        accuracies = [float(each) for each in re.findall(r", ([\d.]+)\)", found)]
        assert len(accuracies) == 4 and max(accuracies) > 0.15, accuracies
        assert json.loads(stack.latest("summary.json"))["status"] == "completed"
        assert "loads the app anew" not in stack.logs("supernode-cpu")
    finally:
        stack.remove()
