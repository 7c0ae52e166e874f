"""Attacks on a SuperLink that the test starts on loopback. Each is bounded in count and time."""

from collections.abc import Iterator

import pytest
from fleet_member import Hall, Member
from front_door import Door


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    """A SuperLink with TLS and node authentication; it needs no data."""
    folder = tmp_path_factory.mktemp("hall")
    with Hall(folder, folder / "store", num_clients=2).taken_down() as started:
        started.open()
        yield started


@pytest.fixture(scope="module")
def alice(hall: Hall) -> Iterator[Member]:
    """An honest member."""
    member = hall.join("alice")
    yield member
    member.channel.close()


@pytest.fixture(scope="module")
def mallory(hall: Hall) -> Iterator[Member]:
    """A hostile member."""
    member = hall.join("mallory")
    yield member
    member.channel.close()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A SuperLink as it is by default: who has no enrolled key stops at the TLS handshake."""
    with Door.open(tmp_path_factory.mktemp("door")) as door:
        yield door


@pytest.fixture(scope="module")
def half_open_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A SuperLink with CLIENT_CERTIFICATES=optional: strangers get as far as their first call."""
    with Door.open(tmp_path_factory.mktemp("half-open"), client_certificates="optional") as door:
        yield door
