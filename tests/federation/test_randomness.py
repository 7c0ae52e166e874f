"""Random numbers of a foreign app on warm clients: fresh in every message and on every client, unless it seeds itself.

Noise that repeats is no noise: the difference of two rounds would show what local privacy hides.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from federation_processes import Fleet, bouquet

pytestmark = pytest.mark.federation

DRAWING = Path(__file__).parent / "apps" / "drawing"


def _all_differ(replies: list[dict[str, Any]]) -> None:
    for name in replies[0]:
        values = [reply[name] for reply in replies]
        if name.startswith(("global-", "own-", "openssl", "local-dp-noise")):
            assert len(set(values)) == len(values), f"{name} repeats: {values}"
        elif name.startswith("seeded-"):
            assert len(set(values)) == 1, f"{name} was seeded when the app was imported: {values}"


def test_two_clients_that_share_a_warm_parent_draw_afresh_in_every_message(tmp_path: Path) -> None:
    run = bouquet(
        "up", "--clients", "2", "--app", str(DRAWING), "--config", "nodes=2", "--dataset", "digits",
        "--results", str(tmp_path / "results"), cwd=tmp_path,
    )  # fmt: skip
    lines = [line.removeprefix("reply ") for line in run.stdout.splitlines() if line.startswith("reply ")]
    assert len(lines) == 6, run.stdout + run.stderr
    _all_differ([json.loads(line) for line in lines])


@pytest.mark.parametrize("worker", ["fork", "persistent"])
def test_clients_of_their_own_draw_afresh_in_every_message(worker: str, fleet: Fleet) -> None:
    fleet.superlink()
    for number in range(2):
        fleet.supernode(number, BOUQUET_WORKER=worker)
    fleet.train("nodes=2", DRAWING).wait(180)
    replies = fleet.replies()
    assert len(replies) == 6, fleet.log("train")
    if worker == "persistent":  # one process for the run: the app's seeded generators go on
        replies = [{k: v for k, v in reply.items() if not k.startswith("seeded-")} for reply in replies]
    _all_differ(replies)


def test_an_app_that_seeds_itself_draws_what_it_would_in_stock_flower(fleet: Fleet) -> None:
    fleet.superlink()
    fleet.supernode(0, DRAWING_SEED="11")
    fleet.supernode(1, DRAWING_SEED="11", BOUQUET_PATCHES="-warm")
    fleet.train("nodes=2 messages=2", DRAWING).wait(240)
    replies = fleet.replies()
    assert len(replies) == 4 and {reply["partition-id"] for reply in replies} == {0, 1}
    # Flower's heartbeats draw from Python's global generator too, now and then.
    first = random.Random(11)
    allowed = [first.random() for _ in range(8)]
    assert all(reply.pop("global-python") in allowed for reply in replies), allowed
    for name in replies[0].keys() - {"number", "partition-id"}:
        values = {reply[name] for reply in replies}
        same = name.startswith(("global-", "seeded-", "local-dp-noise"))
        assert len(values) == (1 if same else 4), f"{name}: {values}"
