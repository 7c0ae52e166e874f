"""Whose socket a connection comes from."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.fleet.host import peers

LINE = "   0: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000 {user:5} 0 {inode} 1 0 20 4 30 10 -1\n"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection of this user."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as ours,
    ):
        yield ours, client


def test_an_own_connection_is_this_users(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, client = ends
    assert peers.owner(client.getsockname(), ours.getsockname()) == os.geteuid()


def test_a_closed_socket_belongs_to_nobody(ends: tuple[socket.socket, socket.socket]) -> None:
    """The kernel shows it as root's."""
    ours, client = ends
    local, remote = ours.getsockname(), client.getsockname()
    client.close()
    assert peers.owner(remote, local) is None


@pytest.mark.parametrize(("user", "inode", "owner"), [(0, 7, 0), (1234, 7, 1234), (0, 0, None)])
def test_the_kernel_tells_whose_socket_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: int, inode: int, owner: int | None
) -> None:
    sockets = tmp_path / "tcp"
    sockets.write_text("  sl  local_address rem_address\n" + LINE.format(user=user, inode=inode))
    monkeypatch.setattr(peers, "SOCKETS", sockets)
    assert peers.owner(("127.0.0.1", 8080), ("127.0.0.1", 40000)) == owner
    assert peers.owner(("127.0.0.1", 8080), ("127.0.0.1", 40001)) is None, "no such socket"
