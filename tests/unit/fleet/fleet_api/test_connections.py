"""Ending one connection of this process, and how many files it may open."""

import resource
import socket

import pytest
from fresh_python import run_python

from app.fleet.fleet_api.connections import CONNECTIONS_PER_MEMBER, MemberConnections, end_connection


@pytest.mark.parametrize(
    ("family", "host", "named"),
    [(socket.AF_INET, "127.0.0.1", "ipv4:127.0.0.1"), (socket.AF_INET6, "::1", "ipv6:%5B::1%5D")],
)
def test_the_connection_with_a_peer_is_ended_and_no_other(
    family: socket.AddressFamily, host: str, named: str
) -> None:
    with socket.create_server((host, 0), family=family) as listener:
        address = listener.getsockname()[:2]
        with socket.create_connection(address) as ended, socket.create_connection(address) as other:
            served = [listener.accept()[0] for _ in range(2)]
            end_connection(f"{named}:{ended.getsockname()[1]}")
            ended.settimeout(5)
            assert ended.recv(1) == b""
            served[1].sendall(b"x")
            other.settimeout(5)
            assert other.recv(1) == b"x"
            for connection in served:
                connection.close()


@pytest.mark.parametrize("peer", ["", "unix:", "ipv4:127.0.0.1:x", "ipv4:192.0.2.1:1"])
def test_a_peer_that_is_not_there_is_no_error(peer: str) -> None:
    end_connection(peer)


def test_a_process_may_open_more_files_than_the_soft_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, {hard}))\n"
        "from app.fleet.fleet_api.connections import raise_file_limit\n"
        "print(raise_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    told, now = run_python(program.format(hard=hard)).split()
    assert int(told) == int(now) > 128


def test_a_member_gives_up_the_connection_that_it_used_longest_ago() -> None:
    connections = MemberConnections()
    for number in range(CONNECTIONS_PER_MEMBER):
        assert connections.called(b"a", f"ipv4:192.0.2.1:{number}") is None
    assert connections.called(b"a", "ipv4:192.0.2.1:0") is None
    assert connections.called(b"b", "ipv4:192.0.2.1:2") is None, (
        "a port that another member has now is not ended"
    )
    assert connections.called(b"a", "ipv4:192.0.2.1:100") is None
    assert connections.called(b"a", "ipv4:192.0.2.1:101") == "ipv4:192.0.2.1:1"
