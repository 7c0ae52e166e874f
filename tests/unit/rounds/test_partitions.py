"""A node is bound to the partition that it claims first."""

import logging

import pytest

from app.rounds.partitions import Partitions


def partitions(*online: int, **of: int) -> Partitions:
    return Partitions(
        {int(node[1:]): partition for node, partition in of.items()},
        left=lambda holder, _: holder not in online,
        label=lambda node: f"node {node}",
    )


def test_the_first_claim_counts() -> None:
    known = partitions()
    assert known.claim(7, 2) == "" and known.claim(7, 2) == ""
    assert known.claim(7, 3) == "it claims partition 3, after 2 before"
    assert known.of == {7: 2}


def test_what_another_holds_is_not_given_away_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    known = partitions(7, n7=2)
    with caplog.at_level(logging.WARNING, "flwr"):
        assert [known.claim(8, 2) for _ in range(3)] == ["", "", ""], "who came first may be the liar"
    assert known.of == {7: 2}
    assert [record.getMessage() for record in caplog.records] == [
        "node 8 claims partition 2, which node 7 holds"
    ]


def test_a_client_that_started_again_keeps_its_partition() -> None:
    known = partitions(8, n7=2)
    assert known.claim(8, 2) == "" and known.of == {8: 2}
