"""Apps as people write them, unchanged: what they reach here is what they reach in Flower's simulation."""

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation_processes import ROOT, bouquet, leftovers, until

from bench import hub

APPS, EXAMPLES = ROOT / "tests" / "apps", ROOT / "examples"
pytestmark = pytest.mark.federation
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

# The tutorial's app as it was written before there was a context: a client by its number, a ServerApp of parts.
OLDER_CLIENT = """
import flwr as fl
from tutorial.client_app import FlowerClient
from tutorial.task import Net, load_datasets

def client_fn(cid: str):
    return FlowerClient(Net(), *load_datasets(int(cid), 3)).to_client()

app = fl.client.ClientApp(client_fn=client_fn)
"""
OLDER_SERVER = """
import flwr as fl
from tutorial.server_app import weighted_average

strategy = fl.server.strategy.FedAvg(evaluate_metrics_aggregation_fn=weighted_average)
app = fl.server.ServerApp(config=fl.server.ServerConfig(num_rounds=2), strategy=strategy)
"""


@pytest.fixture(autouse=True)
def _nothing_stays_behind(tmp_path: Path) -> Iterator[None]:
    yield
    until(lambda: not leftovers(str(tmp_path)), 20, lambda: f"stayed behind: {leftovers(str(tmp_path))}")


@pytest.fixture
def pictures(cifar10: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables with which an app finds CIFAR-10 on a hub, which is on loopback here."""
    with hub.serving(lambda name: cifar10 if name == "uoft-cs/cifar10" else None) as port:
        # An app that fetches its data itself makes connections.
        yield {**hub.environment(port, tmp_path / "hub"), "BOUQUET_CONFINEMENT": "off"}


def _run(command: str, app: Path, folder: Path, config: str = "", **environment: str) -> str:
    folder.mkdir(exist_ok=True)
    done = bouquet(
        command, "--app", str(app), "--clients", "3", "--results", str(folder / "results"), "--config", config,
        environment={"OMP_NUM_THREADS": "1", **environment}, cwd=folder,
    )  # fmt: skip
    if done.returncode == 2 and "where pip looks" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"no package index: {done.stderr}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


def _rounds(output: str) -> list[tuple[float, ...]]:
    """What an app says of each round: ``round 1: accuracy 0.8, loss 0.4``."""
    lines = re.findall(r"^round \d+: (.*)$", output, re.MULTILINE)
    return [tuple(map(float, re.findall(r"[\d.]+", line))) for line in lines]


def _collected(folder: Path) -> list[str]:
    """The files that an app has left, of a run that says that it is complete."""
    run = folder / "results" / "latest"
    assert json.loads((run / "summary.json").read_text())["status"] == "completed"
    return sorted(file.name for file in (run / "artefacts").iterdir())


def _accuracies(output: str) -> list[float]:
    """What Flower's own loop of the old style says at the end."""
    (found,) = re.findall(r"\{'accuracy': \[(.*)\]", output)
    return [float(each) for each in re.findall(r", ([\d.]+)\)", found)]


@needs_ray
@pytest.mark.parametrize(
    ("app", "least", "leaves"),
    [(APPS / "numpy_only", 0.8, "final_model.npz"), (EXAMPLES / "tables", 0.9, "model.npz")],
    ids=["numpy_only", "tables"],
)
def test_an_app_reaches_what_it_reaches_in_simulation(
    app: Path, least: float, leaves: str, tmp_path: Path
) -> None:
    deployed, simulated = (_rounds(_run(command, app, tmp_path / command)) for command in ("up", "simulate"))
    assert len(deployed) == 5 and deployed[-1][0] > least
    assert deployed == [pytest.approx(each, abs=1e-5) for each in simulated]
    assert _collected(tmp_path / "up") == [leaves]


def test_the_tutorial_in_the_old_style_learns(pictures: dict[str, str], tmp_path: Path) -> None:
    output = _run("up", APPS / "tutorial", tmp_path, "min-clients=3 num-server-rounds=4", **pictures)
    assert "loads the app anew" not in (logs := _logs(tmp_path)), logs
    accuracies = _accuracies(output)
    assert len(accuracies) == 4 and max(accuracies) > 0.15, "ten classes, 1,200 pictures, four epochs"


def test_imports_and_signatures_of_older_versions_still_run(pictures: dict[str, str], tmp_path: Path) -> None:
    app = tmp_path / "tutorial"
    shutil.copytree(APPS / "tutorial", app, ignore=shutil.ignore_patterns("__pycache__"))
    (app / "tutorial" / "older_client.py").write_text(OLDER_CLIENT)
    (app / "tutorial" / "older_server.py").write_text(OLDER_SERVER)
    toml = app / "pyproject.toml"
    toml.write_text(re.sub(r"tutorial\.(server|client)_app:app", r"tutorial.older_\1:app", toml.read_text()))
    assert len(_accuracies(_run("up", app, tmp_path, **pictures))) == 2


@pytest.mark.parametrize(
    ("app", "least", "travels", "leaves"),
    [
        ("boosting", 0.95, "15 trees", "forest.json"),
        ("text_lora", 0.9, "15490 of 123844 parameters travel", "adapters.pt"),
    ],
    ids=["boosting", "text_lora"],
)
def test_an_app_with_packages_of_its_own_learns(
    app: str, least: float, travels: str, leaves: str, tmp_path: Path
) -> None:
    output = _run("up", EXAMPLES / app, tmp_path)
    assert "adding what the app asks for: " in output, (
        "packages that are not in the image, which it is here for"
    )
    assert _rounds(output)[-1][0] > least, output
    assert travels in output and _collected(tmp_path) == [leaves]
    assert "loads the app anew" not in (logs := _logs(tmp_path)), logs


def _logs(folder: Path) -> str:
    return "".join(file.read_text(errors="replace") for file in folder.rglob("supernode-*.log"))
