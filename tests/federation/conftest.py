"""Fixtures of the tests with real processes."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation_processes import Fleet, leftovers


@pytest.fixture
def fleet(tmp_path: Path, small_store: Path) -> Iterator[Fleet]:
    """A SuperLink and three SuperNodes, as plain processes on loopback."""
    started = Fleet(tmp_path, small_store, num_clients=3)
    try:
        yield started
    finally:
        started.stop()
        deadline = time.monotonic() + 10
        while (left := leftovers(str(tmp_path))) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, "a process stayed behind"
