"""The errors of the Control API's client: one line each, with the way out."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from flwr.proto.control_pb2 import ListNodesRequest

from app.errors import UserError
from app.fleet.control import Connection, control


@contextmanager
def server(status: int, body: bytes) -> Iterator[Connection]:
    """Answers each request with `status` and `body`; a status of 0 closes the connection without an answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if status:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield Connection(f"127.0.0.1:{http.server_address[1]}")
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def error_of(connection: Connection) -> str:
    with pytest.raises(UserError) as caught, control(connection) as client:
        client.ListNodes(ListNodesRequest())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, b'{"message": "not yours", "public_details": "ask"}', "refused: not yours ask"),
        (500, b"oops", "refused: status 500 oops"),
        (502, b"", "refused: status 502"),
        (0, b"", "if it uses TLS, give its ca.crt"),
    ],
)
def test_an_answer_that_is_no_reply_is_told(status: int, body: bytes, words: str) -> None:
    with server(status, body) as connection:
        error = error_of(connection)
    assert words in error and connection.address in error


def test_a_superlink_that_is_not_there_is_named_with_the_way_out(tmp_path: Path) -> None:
    assert "127.0.0.1:1 does not answer: start the SuperLink" in error_of(Connection("127.0.0.1:1"))
    assert str(tmp_path / "ca.crt") in error_of(Connection("127.0.0.1:1", tmp_path / "ca.crt"))
