"""A sentence is logged once a minute, however often it is true."""

from app.fleet.quiet import MOST, MOST_OF_A_PEER, MOST_OF_ALL, Budget, Quiet


def test_a_sentence_is_new_again_after_a_minute() -> None:
    now = [0.0]
    quiet = Quiet(lambda: now[0])
    assert [quiet.is_new("a"), quiet.is_new("a"), quiet.is_new("b")] == [True, False, True]
    now[0] = 61.0
    assert quiet.is_new("a")


def test_memory_is_bounded_when_every_sentence_is_another() -> None:
    quiet = Quiet(lambda: 0.0)
    for number in range(3 * MOST):
        quiet.is_new(str(number))
    assert len(quiet._logged) <= MOST


def test_a_peer_with_a_new_sentence_each_time_is_heard_a_few_times() -> None:
    now = [0.0]
    quiet = Quiet(lambda: now[0])
    assert sum(quiet.is_new(f"key {number}", "mallory") for number in range(500)) == MOST_OF_A_PEER
    assert quiet.is_new("another", "alice"), "and silences nobody else"
    now[0] = 61.0
    assert quiet.is_new("key 1", "mallory")


def test_a_thousand_peers_fill_no_disk() -> None:
    quiet = Quiet(lambda: 0.0)
    assert sum(quiet.is_new(f"peer {number}", str(number)) for number in range(5000)) == MOST_OF_ALL


def test_a_budget_is_new_each_minute_and_remembers_so_many_kinds() -> None:
    now = [0.0]
    budget = Budget(2, lambda: now[0])
    assert [budget.take("a") for _ in range(4)] == [1, 2, 0, 0]
    assert all(budget.take(str(number)) for number in range(MOST - 1))
    assert not budget.take("one too many") and len(budget._taken) == MOST
    now[0] = 61.0
    assert budget.take("a") == 1 and budget.take("one too many") == 1
