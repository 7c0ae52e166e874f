"""An app can reach its data, its channel and nothing else, and it leaves nothing behind."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from federation_processes import Fleet

from app.fleet.identity.keys import make_node_key
from app.fleet.runs.bundle import app_hash
from app.fleet.warm.confinement import detect

pytestmark = pytest.mark.federation

HOSTILE = Path(__file__).parent / "apps" / "hostile"
COUNTING = Path(__file__).parents[1] / "federation" / "apps" / "counting"
ATTACKS = (
    "read-key", "list-keys", "read-memory", "read-memory-by-call", "read-environment", "read-neighbour", "trace",
    "take-descriptor", "signal-parents", "signal-neighbour", "limit-supernode", "call-out", "call-out-by-udp",
    "call-a-local-service", "write-to-a-local-service", "listen", "write-to-store", "plant-install",
    "change-own-bundle", "use-inherited-descriptors", "own-namespaces", "ring",
)  # fmt: skip
BY_LANDLOCK = {
    "read-key", "list-keys", "read-environment", "write-to-store", "plant-install", "change-own-bundle",
}  # fmt: skip


@dataclass
class Outcome:
    """What a hostile app got on a client, and how the client is afterwards.

    Attributes:
        replies: of the hostile app, by its attacks.
        daemons: processes of the app that outlived their message.
        talking: replies of the same app where it also talks to the SuperNode while it is imported.
        honest: replies of another app afterwards.
        log: of the SuperNode.
    """

    replies: dict[str, dict[str, Any]]
    daemons: list[int]
    talking: list[dict[str, Any]]
    honest: list[dict[str, Any]]
    log: str


@dataclass
class Site:
    """The SuperNode's host: what a hostile app would like to have."""

    folder: Path
    store: Path

    def __enter__(self) -> dict[str, Any]:
        keys = self.folder / "keys"
        self.undo = contextlib.ExitStack()
        listener = self.undo.enter_context(socket.create_server(("127.0.0.1", 0)))
        service = self.undo.enter_context(socket.socket(socket.AF_UNIX))
        service.bind(str(self.folder / "service"))
        service.listen()
        datagrams = self.undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagrams.bind(str(self.folder / "datagrams"))
        neighbour = subprocess.Popen(["sleep", "600"], env={**os.environ, "SECRET": "of another client"})
        self.undo.callback(neighbour.wait)
        self.undo.callback(neighbour.kill)
        return {
            "key": str(make_node_key(keys / "0.key").path),
            "neighbour": neighbour.pid,
            "port": listener.getsockname()[1],
            "service": service.getsockname(),
            "datagrams": datagrams.getsockname(),
            "store": str(self.store),
            "flwr_home": str(self.folder / "supernode-0"),
            "installs": f"tests.counting.1.0.0.{app_hash(COUNTING)[:8]}",
            "pyproject": (COUNTING / "pyproject.toml").read_text(),
            "talks": False,
        }

    def __exit__(self, *_: object) -> None:
        self.undo.close()


def _project(folder: Path, targets: dict[str, Any]) -> Path:
    shutil.copytree(HOSTILE, folder)
    (folder / "hostile" / "targets.py").write_text(f"TARGETS = {targets!r}\n")
    return folder


def _finish(fleet: Fleet, timeout_s: float) -> None:
    """Wait for the run. A client that does not go on shows in the replies."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        fleet.processes["train"].wait(timeout_s)


def _daemons() -> list[int]:
    return [process.pid for process in psutil.process_iter() if process.name() == "hostile-daemon"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, small_store: Path) -> Iterator[Outcome]:
    """One federation of one client, where a hostile app runs first and an honest one afterwards."""
    folder = tmp_path_factory.mktemp("hostile")
    store = folder / "store"
    shutil.copytree(small_store, store)
    fleet = Fleet(folder, store, num_clients=1)
    try:
        with Site(folder, store) as targets:
            fleet.superlink()
            started = fleet.supernode(
                0, BOUQUET_NODE_KEY=targets["key"], PARTITION_ID="", BOUQUET_LEASES=str(folder / "leases")
            )
            targets["supernode"] = started.pid
            everything = [*ATTACKS, "work", "stay", "confuse", "reply-for-another", "work"]
            fleet.train(f"attacks='{','.join(everything)}'", _project(folder / "a", targets))
            _finish(fleet, 150)
            replies = fleet.replies()
            time.sleep(0.5)
            daemons = _daemons()
            project = _project(folder / "b", {**targets, "talks": True})
            fleet.train("attacks='read-key'", project)
            _finish(fleet, 90)
            talking = fleet.replies()[len(replies) :]
            fleet.train("messages=2", COUNTING)
            _finish(fleet, 60)
            honest = fleet.replies()[len(replies) + len(talking) :]
        yield Outcome(
            {reply["attack"]: reply for reply in replies}, daemons, talking, honest, fleet.log("supernode-0")
        )
    finally:
        for pid in _daemons():
            psutil.Process(pid).kill()
        fleet.stop()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_app_gets_nothing(attack: str, outcome: Outcome) -> None:
    if attack in BY_LANDLOCK and not detect().landlock:
        pytest.skip("this kernel has no Landlock, which the SuperNode says when it starts")
    assert outcome.replies[attack]["got"] == 0, outcome.log[-3000:]


def test_it_gets_no_more_while_it_is_imported(outcome: Outcome) -> None:
    if not detect().is_whole:
        pytest.skip("this kernel has no Landlock, which the SuperNode says when it starts")
    assert "got while it was imported: []" in outcome.log


def test_what_an_app_needs_goes_on_working(outcome: Outcome) -> None:
    assert (outcome.replies["work"].get("got"), outcome.replies["work"].get("rows")) == (1, 64), outcome.log[
        -3000:
    ]


def test_no_process_of_an_app_outlives_its_message(outcome: Outcome) -> None:
    assert outcome.replies["stay"] == {"attack": "stay", "at-import": 0, "got": 1}
    assert not outcome.daemons


def test_calls_that_break_the_protocol_cost_the_app_its_reply_and_the_client_nothing(
    outcome: Outcome,
) -> None:
    assert "error" in outcome.replies["reply-for-another"]
    assert "error" not in outcome.replies["work"], "the client recovers by itself"


def test_an_app_that_talks_to_the_supernode_unasked_is_served_like_any_other(outcome: Outcome) -> None:
    assert [reply.get("got") for reply in outcome.talking] == [0], outcome.log[-3000:]


def test_an_app_that_ran_before_plants_nothing_for_the_next(outcome: Outcome) -> None:
    assert [reply.get("handled") for reply in outcome.honest] == [1, 1], outcome.honest


def test_the_supernode_says_once_what_confines_its_apps(outcome: Outcome) -> None:
    assert outcome.log.count(detect().describe()) == 1
