"""``bouquet.keep``: three changed lines, and an app that was killed goes on in the same bytes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from federation_processes import ROOT, Fleet
from tiny_apps import make_app

pytestmark = pytest.mark.federation

# As in Flower's quickstart, with NumPy alone. What the README changes of it is marked.
SERVER = """
    import numpy as np
    from flwr.app import ArrayRecord, MetricRecord
    from flwr.serverapp.strategy import FedAdam

    app = ServerApp()

    def evaluate(server_round, arrays):
        return MetricRecord({"accuracy": 1 / (1 + abs(float(arrays.to_numpy_ndarrays()[0].mean()) - 3))})

    @app.main()
    def main(grid, context):
        arrays = ArrayRecord([np.zeros(1000, np.float32)])
        strategy = FedAdam(eta=0.3)
        result = strategy.start(grid, arrays, num_rounds=int(context.run_config["rounds"]), evaluate_fn=evaluate)
        print(f"learned in rounds {sorted(result.evaluate_metrics_serverapp)}", flush=True)
"""
CLIENT = """
    import time
    import numpy as np
    from flwr.app import ArrayRecord, MetricRecord

    app = ClientApp()

    @app.train()
    def train(message, context):
        time.sleep(0.3)
        number = message.content["config"]["server-round"]
        drawn = np.random.default_rng([context.node_config["partition-id"], number])
        model = message.content["arrays"].to_numpy_ndarrays()[0]
        model = model + 0.5 * (drawn.normal(3, 1, model.shape) - model).astype(np.float32)
        metrics = MetricRecord({"num-examples": 10 + context.node_config["partition-id"], "train_loss": 1.0})
        return Message(RecordDict({"arrays": ArrayRecord([model]), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 10, "eval_acc": 0.5})}), reply_to=message)
"""


def changed(server: str) -> str:
    """The app with the README's lines."""
    section = (ROOT / "README.md").read_text().partition("from bouquet import keep")[2]
    assert "strategy = keep(" in section
    return server.replace(
        "from flwr.serverapp.strategy import FedAdam",
        "from flwr.serverapp.strategy import FedAdam\n    from bouquet import keep",
    ).replace("strategy = FedAdam(eta=0.3)", "strategy = keep(FedAdam(eta=0.3), context)")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_app(tmp_path_factory.mktemp("apps"), "quick", CLIENT, changed(SERVER))


@pytest.fixture(scope="module")
def whole(two_clients: Fleet, app: Path) -> Iterator[Path]:
    """The results of a run that was never cut off."""
    status, log = two_clients.train_to_the_end("rounds=6", app, 120)
    assert status == 0 and "round 6/6  kept" in log, log
    yield (two_clients.folder / "results" / "latest").resolve()


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_a_run_leaves_models_checkpoint_history_and_report(whole: Path) -> None:
    report, summary = _read(whole, "report.json"), _read(whole, "summary.json")
    assert report["schema_version"] == 1 and report["rounds"] == 6 and len(report["round_s"]) == 6
    assert sorted(report["metrics"]["server"]) == [str(number) for number in range(7)]
    assert report["metrics"]["evaluate"]["6"]["eval_acc"] == 0.5
    assert summary["best"] == report["best"] and summary["best"]["metric"] == "accuracy"
    assert (whole / "model.safetensors").stat().st_size > 4000 and (whole / "model-best.safetensors").exists()
    assert "6,server,accuracy," in (whole / "history.csv").read_text()
    assert (whole / "checkpoint" / "6" / "SHA256SUMS").exists()


def test_a_killed_run_goes_on_in_the_same_bytes(whole: Path, two_clients: Fleet, app: Path) -> None:
    (two_clients.folder / "train.log").unlink(missing_ok=True)
    train = two_clients.train("rounds=6", app)
    two_clients.wait_for("train", "round 3/6  kept")
    two_clients.kill_serverapp()
    assert train.wait(120) == 0, two_clients.log("train")
    log = two_clients.log("train")
    after = re.findall(r"goes on after round (\d)", log)
    assert len(after) == 1 and int(after[0]) >= 3, log
    assert "learned in rounds [0, 1, 2, 3, 4, 5, 6]" in log, "the app's own result has every round"
    folder = (two_clients.folder / "results" / "latest").resolve()
    for name in ("model.safetensors", "model-best.safetensors", "history.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert _read(folder, "report.json")["resumed_from"] == [int(after[0])]
    assert not list((two_clients.folder / "results").glob(f"*/checkpoint/{int(after[0])}.partial"))

    status, log = two_clients.train_to_the_end("rounds=6", app, 120)
    assert status == 0 and "goes on after" not in log, "a run that ended is not gone on with"


def test_a_reply_that_cannot_be_right_is_left_out(two_clients: Fleet, tmp_path: Path) -> None:
    wrong = CLIENT.replace(
        "metrics = MetricRecord",
        "model = model * (float('nan') if context.node_config['partition-id'] else 1)\n        metrics = MetricRecord",
    )
    app = make_app(tmp_path, "wrong", wrong, changed(SERVER))
    status, log = two_clients.train_to_the_end("rounds=2", app, 120)
    assert status == 0 and "Left out the reply of" in log, log
    report = _read((two_clients.folder / "results" / "latest").resolve(), "report.json")
    assert [failure["round"] for failure in report["failures"]] == [1, 2]
    assert report["metrics"]["server"]["2"]["accuracy"] > 0
