"""A federation under siege, in small: `python -m bench siege` is the whole of it, with its figures."""

from pathlib import Path

import pytest

from bench import siege

pytestmark = pytest.mark.federation


def test_a_siege_costs_no_reply_little_memory_and_no_log(small_store: Path, tmp_path: Path) -> None:
    """Of a stranger and of a member at once, while three clients train."""
    size = siege.Size(clients=3, rounds=2, connections=150, calls=1500)
    found = siege.run(small_store, tmp_path, size, print)
    for besieger in (found["stranger"], found["member"]):
        assert (besieger["connections"], besieger["calls"]) == (150, 1500)
    assert found["stranger"]["ended"].get("OK", 0) == 0
    assert found["war"]["replies"] == found["war"]["wanted"] == 6
    assert found["superlink_mb"] < siege.GOAL_MEMORY_MB
    assert found["log_mb"] < siege.GOAL_LOG_MB
