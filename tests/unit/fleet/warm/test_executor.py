"""Which processes a SuperNode keeps for the messages to come."""

import json
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.fleet.warm import executor as warm_executor
from app.fleet.warm.executor import WarmExecutor, WarmSettings
from app.fleet.warm.peer import Peer

MB = 1 << 20


class _Process:
    """Stands in for a warm process: it takes requests, and is ready at once."""

    pid = 1

    def __init__(self) -> None:
        self.loaded, self.kept = list[str](), list[int]()
        self.others: list[socket.socket] = []

    def has_ended(self) -> bool:
        return False

    def start(self, request: dict[str, Any], *descriptors: int) -> int:
        ours = socket.fromfd(descriptors[0], socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.others.append(ours)
        if request["op"] == "load":
            ours.send(json.dumps({"ready": True}).encode())
        self.loaded.append(request.get("fab_hash", request["op"]))
        return len(self.loaded)

    def ask(self, request: dict[str, Any], *_: int) -> dict[str, Any]:
        if request["op"] == "end":
            self.kept = sorted(request["keep"])
        return {"status": 0}


def _executor(memory: int, held: int, monkeypatch: pytest.MonkeyPatch) -> tuple[WarmExecutor, _Process]:
    parent = _Process()
    executor = WarmExecutor(WarmSettings({}, memory=memory, persistent=True))
    executor._parent = cast(Peer, parent)
    monkeypatch.setattr(warm_executor, "private_bytes", lambda _: held)
    return executor, parent


def _use(executor: WarmExecutor, name: str) -> Peer:
    fab = SimpleNamespace(hash_str=name, content=b"app")
    run = SimpleNamespace(fab_id=f"tests/{name}", fab_version="1", run_id=1)
    return executor.app_parent(cast(Any, run), cast(Any, fab), {})


def test_apps_stay_loaded_as_long_as_there_is_room_and_the_least_lately_used_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor, parent = _executor(250 * MB, 100 * MB, monkeypatch)
    for name in ("first", "second", "first", "third", "first", "second"):
        _use(executor, name)
    assert parent.loaded == ["first", "second", "third", "second"]
    assert list(executor._apps) == ["first", "second"] and parent.kept == [1, 4]


def test_the_app_at_work_stays_however_much_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, parent = _executor(0, 100 * MB, monkeypatch)
    for name in ("first", "first", "second", "first"):
        _use(executor, name)
    assert parent.loaded == ["first", "second", "first"]


def test_two_runs_have_a_worker_each_and_one_that_has_ended_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, _ = _executor(0, 0, monkeypatch)
    app = _Process()
    executor._apps["app"] = cast(Peer, app)
    over: set[int] = set()
    executor.has_ended = lambda run_id: run_id in over

    def worker(run_id: int) -> Peer:
        return executor._worker_for(
            cast(Any, SimpleNamespace(fab_hash="app", run_id=run_id)), cast(Peer, app)
        )

    first, second = worker(1), worker(2)
    assert worker(1) is first and worker(2) is second
    over.add(1)
    third = worker(3)
    assert list(executor._workers.values()) == [second, third]
