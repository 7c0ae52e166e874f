"""Fixtures of the tests with real SuperLinks and SuperNodes."""

from collections.abc import Iterator

import pytest
from federation_processes import Fleet


@pytest.fixture(scope="module")
def two_clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A SuperLink and two SuperNodes, which all tests of a module use one after another."""
    folder = tmp_path_factory.mktemp("fleet")
    with Fleet(folder, folder, num_clients=2).taken_down() as started:
        started.superlink()
        for number in range(2):
            started.supernode(number)
        for number in range(2):
            started.wait_for(f"supernode-{number}", "SuperNode ID")
        yield started
