"""A client's share of the cores."""

from app.fleet.host.cores import available_cores, sleep_soon, threads_per_client


def test_threads_that_wait_sleep_soon_unless_a_policy_is_set() -> None:
    assert sleep_soon({"PATH": "/bin"}) == {"GOMP_SPINCOUNT": "1000"}
    assert sleep_soon({"OMP_WAIT_POLICY": "active"}) == sleep_soon({"GOMP_SPINCOUNT": "7"}) == {}


def test_clients_share_the_cores_and_one_setting_overrides() -> None:
    cores = available_cores()
    assert threads_per_client(None, sharing=1) == cores
    assert threads_per_client(None, sharing=10 * cores) == 1
    assert threads_per_client(3, sharing=10) == 3
