"""What the run of any app gets without a change of it: quorum, progress, events, and a new start where it was killed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from federation_processes import Fleet
from tiny_apps import make_app

pytestmark = pytest.mark.federation

# The older style: one thread for each client, and no time-out.
OLDER_SERVER = """
    from flwr.server import ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg

    def build(context):
        strategy = FedAvg(min_available_clients=2, fraction_evaluate=0.0)
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=2))

    app = ServerApp(server_fn=build)
"""
OLDER_CLIENT = """
    import time
    import numpy as np
    from flwr.client import NumPyClient

    class Client(NumPyClient):
        def __init__(self, number):
            self.number = number

        def get_parameters(self, config):
            return [np.zeros(3)]

        def fit(self, parameters, config):
            if self.number == 1 and {hangs}:
                time.sleep(600)
            return [parameters[0] + 1], 10, {{}}

    app = ClientApp(client_fn=lambda context: Client(context.node_config["partition-id"]).to_client())
"""


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two clients, of which one is enough; the other is waited for a moment."""
    folder = tmp_path_factory.mktemp("fleet")
    with Fleet(folder, folder, num_clients=2).taken_down() as started:
        started.superlink(BOUQUET_MIN_REPLIES="0.5", BOUQUET_GRACE="10")
        for number in range(2):
            started.supernode(number)
        for number in range(2):
            started.wait_for(f"supernode-{number}", "SuperNode ID")
        yield started


def _results(fleet: Fleet) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The latest run's summary and events."""
    folder = fleet.folder / "results" / "latest"
    told = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return json.loads((folder / "summary.json").read_text()), told


def test_a_run_that_all_took_part_in_is_whole_and_told_so(two_clients: Fleet, tmp_path: Path) -> None:
    app = make_app(tmp_path, "older", OLDER_CLIENT.format(hangs=False), OLDER_SERVER)
    status, log = two_clients.train_to_the_end("", app, 120)
    assert status == 0, log
    assert re.search(r"train 2: 2 of 2 replies", log), log
    assert "finished: 2 of 2 clients took part whenever they were asked" in log
    summary, told = _results(two_clients)
    assert (summary["status"], summary["rounds"], summary["num_clients"]) == ("completed", 2, 2)
    assert all(count > 0 for count in summary["bytes_per_client_and_round"].values())
    accepted = [each for each in told if each["event"] == "reply_accepted" and each["phase"] == "train"]
    assert [each["num_examples"] for each in accepted] == [10] * 4 and {
        each["round"] for each in accepted
    } == {1, 2}


@pytest.mark.parametrize("style", ["messages", "older"])
def test_a_client_that_hangs_is_left_out_after_the_grace(style: str, patient: Fleet, tmp_path: Path) -> None:
    app = (
        make_app(tmp_path, style, "import time\ndef work(number):\n    time.sleep(600 * number)", timeout=500)
        if style == "messages"
        else make_app(tmp_path, style, OLDER_CLIENT.format(hangs=True), OLDER_SERVER)
    )
    status, log = patient.train_to_the_end("", app, 120)
    assert status == 3, log + patient.log("superlink")[-3000:]
    assert re.search(r"train 1: 1 of 2 replies, \d+\.\d s", log), log
    assert "(BOUQUET_ROUND_DEADLINE, BOUQUET_GRACE)" in log
    rounds = 1 if style == "messages" else 2
    assert re.search(
        rf"finished on a subset of the clients: 1 of 2 .*; node \d+ missed {rounds} of {rounds}", log
    ), log
    summary, told = _results(patient)
    assert summary["status"] == "subset" and sorted(summary["rounds_missed"].values()) == [0, rounds]
    assert [
        each["accepted"] for each in told if (each["event"], each.get("phase")) == ("phase_finished", "train")
    ] == [1] * rounds
    assert {each["schema"] for each in told} == {1} and told[-1]["event"] == "run_finished"


def test_a_run_whose_serverapp_is_killed_is_begun_anew(two_clients: Fleet, tmp_path: Path) -> None:
    (two_clients.folder / "train.log").unlink(missing_ok=True)
    app = make_app(tmp_path, "slow", "import time\ndef work(number):\n    time.sleep(1)")
    train = two_clients.train("rounds=4", app)
    two_clients.wait_for("train", "round 1: 2 replies")
    two_clients.kill_serverapp()
    assert train.wait(120) == 0, two_clients.log("train")
    assert "it begins anew" in two_clients.log("train") and "round 3: 2 replies" in two_clients.log("train")
