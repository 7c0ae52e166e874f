"""The client's side of telling: nothing is lost that was kept, and no more is kept than there is room for."""

import io
import json
import sys
from typing import Any

import grpc
import pytest

from app.fleet.fleet_api import telling
from app.fleet.fleet_api.telling import MOST_KEPT, Lines, Sharing
from app.fleet.fleet_api.told import LARGEST_LETTER, MOST_LINES


class Failed(grpc.RpcError):  # type: ignore[misc]
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


def test_a_letter_has_room_for_so_many_lines() -> None:
    lines = Lines()
    for number in range(MOST_LINES + 10):
        lines.add(f"{number}")
    assert len(lines.take()[0]) == MOST_LINES and lines.take() == (
        [str(MOST_LINES + n) for n in range(10)],
        0,
    )
    for _ in range(200):
        lines.add("\0" * 5000)  # six characters each in JSON
    taken, _ = lines.take()
    assert taken and len(json.dumps({"lines": taken})) < LARGEST_LETTER


def test_the_oldest_lines_go_and_are_counted() -> None:
    lines = Lines()
    for number in range(MOST_KEPT + 5):
        lines.add(str(number))
    taken, left_out = lines.take()
    assert (taken[0], left_out) == ("5", 5)
    lines.put_back(taken, left_out)
    assert lines.take() == (taken, 5)
    for number in range(MOST_LINES):
        lines.add(str(number))
    lines.put_back(["old"], 0)
    assert lines.take()[1] == 1, "there is no room for it any more"


def test_lines_wait_while_the_superlink_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    own_log = io.StringIO()
    monkeypatch.setattr(sys, "stdout", own_log)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sharing = Sharing(logs=True, usage=None)
    print("hello")
    told: list[dict[str, Any]] = []

    def away(body: bytes, timeout: float) -> bytes:
        raise Failed(grpc.StatusCode.UNAVAILABLE)

    def stock(body: bytes, timeout: float) -> bytes:
        raise Failed(grpc.StatusCode.UNIMPLEMENTED)

    def there(body: bytes, timeout: float) -> bytes:
        told.append(json.loads(body))
        return b"{}"

    assert sharing._tell(away, with_usage=False) and sharing._tell(there, with_usage=False)
    assert told == [{"lines": ["hello"], "left_out": 0}]
    assert sharing._tell(there, with_usage=False) and len(told) == 1, "nothing new is no call"
    print("more")
    assert not sharing._tell(stock, with_usage=False), "a stock SuperLink is asked once"
    assert own_log.getvalue() == "hello\nmore\n", "its own log has all of it"


def test_without_logs_nothing_is_redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = sys.stdout
    sharing = Sharing(logs=False, usage=lambda: {"memory_bytes": 1})
    told: list[dict[str, Any]] = []
    sharing._tell(lambda body, timeout: told.append(json.loads(body)) or b"", with_usage=True)
    assert sharing.output is None and sys.stdout is stream
    assert told == [{"lines": [], "left_out": 0, "usage": {"memory_bytes": 1}}]
    assert telling.USAGE_S > telling.LINES_S
