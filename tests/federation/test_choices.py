"""Every choice of a researcher reaches real clients: one federation, one run for each, and what must follow from it."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_processes import Fleet, bouquet
from safetensors.numpy import load_file

pytestmark = pytest.mark.federation

BASE = "num-server-rounds=2 local-epochs=4 fraction-evaluate=1.0"
STRATEGIES = {
    "fedprox": "proximal-mu=0.1",
    "fedavgm": "server-momentum=0.9",
    "fedadam": "eta=0.01",
    "fedyogi": "eta=0.01",
    "fedadagrad": "eta=0.001",
    "fedmedian": "",
    "fedtrimmedavg": "beta=0.34",
    "krum": "",
    "multikrum": "num-nodes-to-select=2",
    "bulyan": "",
    "qfedavg": "q=0.5",
}
PRIVACY = {
    "central, clipped by the server": "privacy='central-fixed' clipping-norm=5.0 noise-multiplier=0.01",
    "central, clipped by the clients": "privacy='central-fixed' clipping-side='client' clipping-norm=5.0 noise-multiplier=0.01",
    "adaptive, clipped by the server": "privacy='central-adaptive' clipping-norm=5.0 noise-multiplier=0.01",
    "adaptive, clipped by the clients": "privacy='central-adaptive' clipping-side='client' clipping-norm=5.0 noise-multiplier=0.01",
    "local": "privacy='local' clipping-norm=5.0 local-epsilon=1000.0",
}
TRAINING = {
    "sgd": "optimizer='sgd' learning-rate=0.05 momentum=0.8 lr-schedule='cosine'",
    "adamw": "optimizer='adamw' weight-decay=0.1 lr-schedule='step' lr-step-rounds=1 batch-size=16",
    "augment": "augment=true",
    "seed": "seed=7",
    "fewer clients": "fraction-train=0.67 min-train-nodes=2",
}


@dataclass
class Run:
    """What one run left."""

    summary: Any
    model: dict[str, Any]


class Federation:
    """A SuperLink and three clients that stay for all runs of this module."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._default: Run | None = None

    def run(self, config: str) -> Run:
        """Train under ``config``; it must end well, and without a failure of any client."""
        before = set(self._results())
        done = bouquet(
            "train", "--clients", "3", "--control-address", f"127.0.0.1:{self.fleet.control_port}",
            "--config", f"{BASE} {config}", environment={"FLWR_HOME": str(self.fleet.folder / "train")},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        (folder,) = set(self._results()) - before
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["failures"] == [] and summary["rounds"] == 2, done.stdout
        assert math.isfinite(summary["loss"]) and 0 <= summary["accuracy"] <= 1
        return Run(summary, load_file(folder / "model.safetensors"))

    def default(self) -> Run:
        """The run that the others are compared with."""
        self._default = self._default or self.run("")
        return self._default

    def _results(self) -> list[Path]:
        return [path for path in (self.fleet.folder / "results").glob("2*") if path.is_dir()]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, small_store: Path) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("choices")
    leases = {"BOUQUET_LEASES": str(folder / "leases"), "BOUQUET_LOCAL_CLIENTS": "3"}
    fleet = Fleet(folder, small_store, num_clients=3)
    try:
        fleet.superlink()
        for number in range(3):
            fleet.supernode(number, **leases)
        yield Federation(fleet)
    finally:
        fleet.stop()


def differs(one: Run, other: Run) -> bool:
    return any(not np.array_equal(one.model[name], other.model[name]) for name in other.model)


def test_the_default_learns_and_repeats_bit_for_bit(federation: Federation) -> None:
    assert federation.default().summary["accuracy"] > 0.2
    assert not differs(federation.run(""), federation.default())


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_trains(federation: Federation, name: str) -> None:
    run = federation.run(f"strategy='{name}' {STRATEGIES[name]}")
    assert run.summary["settings"]["strategy"] == name
    assert run.summary["accuracy"] > 0.12, "better than guessing"
    assert differs(run, federation.default())


@pytest.mark.parametrize("config", PRIVACY.values(), ids=PRIVACY.keys())
def test_every_kind_of_privacy_trains_and_tells_what_it_spent(federation: Federation, config: str) -> None:
    run = federation.run(config)
    privacy = run.summary["privacy"]
    assert privacy["mechanism"] == run.summary["settings"]["privacy"]
    assert privacy["epsilon"] > 0 and privacy["releases"] == 2
    assert differs(run, federation.default())


@pytest.mark.parametrize("config", TRAINING.values(), ids=TRAINING.keys())
def test_settings_of_the_training_reach_the_clients(federation: Federation, config: str) -> None:
    run = federation.run(config)
    assert run.summary["accuracy"] > 0.12
    assert differs(run, federation.default())


def test_a_classifier_of_torchvision_with_group_norm(federation: Federation) -> None:
    run = federation.run("model='shufflenet_v2_x0_5' norm='group'")
    assert run.model["fc.weight"].shape[0] == 10
    assert not any("running_mean" in name for name in run.model)


def test_training_goes_on_from_the_weights_of_a_file(federation: Federation, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    default = federation.default()
    save_file(default.model, tmp_path / "model.safetensors")
    run = federation.run(f"weights='{tmp_path / 'model.safetensors'}'")
    assert run.summary["loss"] < default.summary["loss"]


def test_personal_layers_never_leave_the_client(federation: Federation) -> None:
    run = federation.run("personal-layers='fc3'")
    assert set(federation.default().model) - set(run.model) == {"fc3.weight", "fc3.bias"}
    up = run.summary["bytes_per_client_and_round"]["up"]
    assert up < federation.default().summary["bytes_per_client_and_round"]["up"] - 3_000


def test_updates_in_half_precision_are_half_as_large(federation: Federation) -> None:
    run, default = federation.run("update-dtype='float16'"), federation.default()
    half, whole = (each.summary["bytes_per_client_and_round"]["up"] for each in (run, default))
    assert 0.45 < half / whole < 0.55
    assert run.summary["accuracy"] == pytest.approx(default.summary["accuracy"], abs=0.05)


def test_the_tutorials_first_steps_as_commands(small_store: Path, tmp_path: Path) -> None:
    from PIL import Image

    data = ["--data", str(small_store)]
    for arguments in (["--partition-id", "1"], ["--all"]):
        picture = tmp_path / f"{len(arguments)}.png"
        done = bouquet("samples", *data, *arguments, "--out", str(picture))
        assert done.returncode == 0 and str(picture) in done.stdout, done.stdout + done.stderr
        assert Image.open(picture).format == "PNG"
    accuracy = []
    for arguments in (["--partition-id", "1"], ["--all-data"]):
        done = bouquet("centralized", *data, *arguments, "--epochs", "2")
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(re.findall(r"^epoch \d/2 .*validation", done.stdout, re.MULTILINE)) == 2, done.stdout
        accuracy += [float(number) for number in re.findall(r"test.*?accuracy (0\.\d+)", done.stdout)]
    alone, together = accuracy
    assert 0.12 < alone < together, "everybody's data is the upper bound"


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scanned digits as a folder in hub form, like MNIST: grey scale, 28x28, columns ``image`` and ``label``."""
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as Pillow
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = [
        Pillow.fromarray((picture * 15).astype(np.uint8), "L").resize((28, 28)) for picture in digits.images
    ]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    folder = tmp_path_factory.mktemp("grey")
    for split, part in (("train", slice(0, 1500)), ("test", slice(1500, None))):
        rows = {"image": pictures[part], "label": digits.target[part].tolist()}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize(
    "division",
    [
        ["--partitioner", "dirichlet", "--alpha", "0.5"],
        ["--partitioner", "pathological", "--classes-per-partition", "4"],
        ["--partitioner", "square"],
    ],
    ids=lambda arguments: arguments[1],
)
def test_a_grey_scale_data_set_divided_otherwise(grey: Path, tmp_path: Path, division: list[str]) -> None:
    store = str(tmp_path / "store")
    done = bouquet("prepare", "--clients", "3", "--dataset", str(grey), *division, "--out", store)
    assert done.returncode == 0, done.stdout + done.stderr
    done = bouquet(
        "up", "--clients", "3", "--rounds", "2", "--data", store, "--results", str(tmp_path / "results"),
        "--config", "local-epochs=5 fraction-evaluate=1.0",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "results" / "latest" / "summary.json").read_text())
    assert summary["failures"] == [] and summary["accuracy"] > 0.2
    model = load_file(tmp_path / "results" / "latest" / "model.safetensors")
    assert model["conv1.weight"].shape[1] == 1, "one channel"
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert division[1] in json.dumps(manifest["partitioner"])
