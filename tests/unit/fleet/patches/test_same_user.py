"""A SuperLink's HTTP APIs at a port and at a socket in the file system, and who is served there."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import uvicorn

from app.fleet.host.ports import connect, free_port
from app.fleet.patches.registry import select
from app.fleet.patches.same_user import SUPERLINK

NOBODY = 65534


@dataclass
class Settings:
    """What the patch needs of the SuperLink's settings."""

    control_socket: Path | None


@dataclass
class Served:
    """A server that answers 200 to whom it serves."""

    port: int
    file: Path

    def status(self, *, at_socket: bool) -> int:
        transport = httpx.HTTPTransport(uds=str(self.file)) if at_socket else None
        with httpx.Client(transport=transport) as client:
            return client.get(f"http://127.0.0.1:{self.port}/").status_code


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def served() -> Iterator[Served]:
    port = free_port()
    with TemporaryDirectory() as folder, ExitStack() as down:
        Path(folder).chmod(0o755)
        file = Path(folder) / "control"
        file.touch()  # left behind by one that was killed
        down.enter_context(select([SUPERLINK], Settings(file)).install())
        config = uvicorn.Config(hello, host="127.0.0.1", port=port, lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Served(port, file)
        finally:
            server.should_exit = True
            thread.join()


def test_the_port_and_the_socket_serve_the_same_user(served: Served) -> None:
    assert [served.status(at_socket=at_socket) for at_socket in (False, True)] == [200, 200]
    assert served.file.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_socket_serves_no_other_user(served: Served) -> None:
    """Neither by its mode nor, where that was changed, by who asks."""
    answers = []
    for mode in (0o600, 0o666):
        served.file.chmod(mode)
        reading, writing = os.pipe()
        if not (child := os.fork()):
            try:
                os.setuid(NOBODY)
                connection = connect(f"unix:{served.file}")
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                os.write(writing, connection.recv(100) or b"ended")
            except OSError as error:
                os.write(writing, type(error).__name__.encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        answers.append(os.read(reading, 100))
        os.close(reading)
    assert answers[0] == b"PermissionError", answers
    assert answers[1] in (b"ended", b"ConnectionResetError", b"BrokenPipeError"), answers
    assert served.status(at_socket=True) == 200
