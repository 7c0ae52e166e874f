"""Free ports, taken ones, and waiting for one that opens later."""

import socket
import threading

import pytest

from app.errors import UserError
from app.fleet.host.ports import free_port, require_free, split, wait_until_open


def test_an_address_is_split_with_or_without_brackets() -> None:
    assert split("fl.example.org:9092") == ("fl.example.org", 9092)
    assert split("[::1]:9092") == ("::1", 9092)


def test_a_taken_port_is_named_with_its_setting() -> None:
    require_free("--control-port", 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"--control-port: port {port} cannot be used on 127.0.0.1"):
            require_free("--control-port", port)


def test_waiting_ends_when_the_port_opens_and_greets_once() -> None:
    port = free_port()
    attempts: list[OSError] = []
    greeted: list[object] = []
    opened = threading.Event()

    def failed(error: OSError) -> None:
        attempts.append(error)
        if not opened.is_set():
            server.listen()
            opened.set()

    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        wait_until_open(f"127.0.0.1:{port}", failed, greeted.append, pause_s=0.0)
    assert len(attempts) == 1 and len(greeted) == 1


def test_waiting_ends_when_the_caller_gives_up() -> None:
    def failed(error: OSError) -> None:
        raise UserError("enough")

    with pytest.raises(UserError, match="enough"):
        wait_until_open(f"127.0.0.1:{free_port()}", failed)
