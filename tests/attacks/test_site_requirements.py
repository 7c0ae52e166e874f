"""A client decides itself how much privacy a run must keep, also for an app that it has pinned."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from federation_processes import Fleet, bouquet

from app.fleet.runs.bundle import app_hash

pytestmark = pytest.mark.federation

COUNTING = Path(__file__).parents[1] / "federation" / "apps" / "counting"


@pytest.fixture
def fleet(tmp_path: Path, small_store: Path) -> Iterator[Fleet]:
    started = Fleet(tmp_path, small_store, num_clients=1)
    try:
        yield started
    finally:
        started.stop()


def test_a_run_that_asks_for_less_gets_the_reason_and_no_result(fleet: Fleet) -> None:
    fleet.superlink()
    fleet.supernode(
        0, BOUQUET_ALLOWED_APPS=app_hash(COUNTING), BOUQUET_SITE_REQUIRE="sleep>=0.01 learn=false"
    )
    fleet.train("messages=1", COUNTING).wait(120)
    fleet.train("messages=1 sleep=0.02", COUNTING).wait(120)
    refused, served = fleet.replies()
    assert "site requires sleep>=0.01 (the run has 0.0)" in refused["error"]
    assert served["handled"] == 1
    assert "runs must have sleep>=0.01 learn=false" in fleet.log("supernode-0")


def test_a_requirement_needs_an_app_that_is_known() -> None:
    done = bouquet(
        "supernode",
        "--insecure",
        "--partition-id",
        "0",
        "--site-require",
        "privacy=local",
        "--allowed-apps",
        "any",
    )
    assert done.returncode == 2
    assert "BOUQUET_SITE_REQUIRE cannot be honoured with BOUQUET_ALLOWED_APPS=any" in done.stderr
