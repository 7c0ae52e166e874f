"""A client that was lost is noticed, comes back under its own name, and gets the message again that was lost with it."""

import pytest
from faulty_federation import COUNTING, Federation

pytestmark = pytest.mark.federation


def test_a_client_that_was_killed_in_training_comes_back_and_is_asked_again(federation: Federation) -> None:
    """It keeps its name, and its message is sent again, for any app."""
    federation.superlink()
    federation.enroll()
    federation.supernode(0)
    federation.train("messages=2 sleep=8", COUNTING)
    federation.wait_until_at_work("supernode-0")
    federation.kill("supernode-0")
    process = federation.supernode(0)
    replies = federation.wait_for_replies(2)
    assert [reply.get("handled") for reply in replies] == [1, 1], replies
    assert process.poll() is None and federation.processes["train"].wait(60) == 0
    assert "client-0 is back, and asked again" in federation.log("train")
    assert federation.log("superlink").count("client-0 is online (node") == 2, "it is the same node"


def test_a_client_that_sleeps_in_training_delivers_its_reply_when_it_wakes(federation: Federation) -> None:
    federation.superlink()
    federation.enroll()
    federation.supernode(0)
    federation.train("messages=2 sleep=3", COUNTING)
    federation.wait_until_at_work("supernode-0")
    federation.pause("supernode-0")
    try:
        federation.wait_until_offline(0)
    finally:
        federation.resume("supernode-0")
    replies = federation.wait_for_replies(2)
    assert [reply.get("handled") for reply in replies] == [1, 1], replies


def test_a_client_outlives_its_superlink_and_serves_the_next(federation: Federation) -> None:
    """Long enough for the waits between two tries to have grown."""
    federation.superlink()
    federation.enroll()
    process = federation.supernode(0)
    federation.wait_for("supernode-0", "SuperNode ID")
    federation.kill("superlink")
    federation.outage(12)
    federation.superlink()
    federation.train("messages=1", COUNTING)
    assert federation.wait_for_replies(1)[0]["handled"] == 1
    assert process.poll() is None, "it has not been started again"
