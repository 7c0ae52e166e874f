"""Several runs on one federation: a queue, turns on each client, and results of their own."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from federation_processes import Fleet, bouquet, until
from tiny_apps import make_app

pytestmark = pytest.mark.federation

# Asks each client for forty things at once, when it is told to, and tells that.
GREEDY = """
    import pathlib, time

    app = ServerApp()

    @app.main()
    def main(grid, context):
        content = RecordDict({{"config": ConfigRecord({{"number": 0}})}})
        messages = [Message(content, node, "train") for node in grid.get_node_ids() for _ in range(40)]
        while not pathlib.Path("{go}").exists():
            time.sleep(0.1)
        keys = set(grid.push_messages(messages))
        pathlib.Path("{pushed}").touch()
        replies = []
        while len(replies) < 40:
            replies += grid.pull_messages(keys - {{r.metadata.reply_to_message_id for r in replies}})
            time.sleep(0.1)
        print(f"greedy: {{len([r for r in replies if not r.has_error()])}} replies", flush=True)
"""
MODEST = """
    import pathlib, time

    stock = app

    app = ServerApp()

    @app.main()
    def wait(grid, context):
        while not pathlib.Path("{pushed}").exists():
            time.sleep(0.1)
        stock(grid, context)
"""
SLOW = "import time\ndef work(number):\n    time.sleep(0.4)"


@pytest.fixture(scope="module")
def two_at_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with Fleet(folder, folder, num_clients=1).taken_down() as started:
        started.superlink(BOUQUET_RUNS_AT_ONCE="2")
        started.supernode(0)
        started.wait_for("supernode-0", "SuperNode ID")
        yield started


def _queue(fleet: Fleet, *arguments: str) -> Any:
    return bouquet("queue", *arguments, "--control-address", f"127.0.0.1:{fleet.control_port}")


def _entries(fleet: Fleet) -> dict[str, Any]:
    """The queue, by the names of the apps."""
    done = _queue(fleet, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["schema_version"] == 1
    return {entry["app"].removeprefix("tests/"): entry for entry in told["runs"]}


def test_runs_wait_take_turns_are_cancelled_and_have_results_of_their_own(
    two_at_once: Fleet, tmp_path: Path
) -> None:
    fleet, go, pushed = two_at_once, tmp_path / "go", tmp_path / "pushed"
    greedy_app = make_app(tmp_path, "greedy", SLOW, GREEDY.format(go=go, pushed=pushed))
    greedy = fleet.train("", greedy_app, "greedy")
    modest = fleet.train(
        "rounds=5", make_app(tmp_path, "modest", server=MODEST.format(pushed=pushed)), "modest"
    )
    until(lambda: len(_entries(fleet)) == 2, 60, lambda: fleet.log("modest"))
    third = fleet.train("", make_app(tmp_path, "third"), "third")
    until(lambda: "third" in _entries(fleet), 60, lambda: fleet.log("third"))
    found = _entries(fleet)
    assert (found["third"]["state"], found["third"]["place"]) == ("pending", 1)
    assert "third" in _queue(fleet).stdout
    assert _queue(fleet, "cancel", found["third"]["run"]).returncode == 0
    assert third.wait(60) == 1 and "finished:stopped" in fleet.log("third")
    until(lambda: _entries(fleet)["greedy"]["state"] == "running", 60, lambda: fleet.log("greedy"))
    refused = _queue(fleet, "cancel", found["greedy"]["run"])
    assert refused.returncode == 2 and "has begun and is running" in refused.stderr
    go.touch()
    assert modest.wait(60) == 0 and "round 4: 1 replies" in fleet.log("modest"), fleet.log("modest")
    assert greedy.poll() is None, "its messages were there before those of the other"
    assert greedy.wait(90) == 0 and "greedy: 40 replies" in fleet.log("greedy")
    apps = [json.loads(file.read_text())["app"] for file in fleet.folder.glob("results/2*/summary.json")]
    assert {"tests/greedy", "tests/modest"} <= set(apps)


def test_the_queue_survives_a_superlink_that_is_killed(two_at_once: Fleet, tmp_path: Path) -> None:
    fleet = two_at_once
    names = ("one", "two", "three")
    runs = [fleet.train("rounds=6", make_app(tmp_path, name, SLOW), name) for name in names]
    until(lambda: len(_entries(fleet)) == 3, 60, lambda: fleet.log("three"))
    fleet.processes["superlink"].send_signal(signal.SIGKILL)
    fleet.processes["superlink"].wait()
    fleet.superlink(BOUQUET_RUNS_AT_ONCE="2")
    # Without a state folder the SuperLink has lost its members. A service manager starts them again.
    fleet.processes["supernode-0"].wait(60)
    fleet.supernode(0)
    assert [run.wait(150) for run in runs] == [0, 0, 0], fleet.log("one") + fleet.log("three")
    for name in names:
        assert "round 5: 1 replies" in fleet.log(name) and "it begins anew" in fleet.log(name)
