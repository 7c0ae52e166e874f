"""Warm ClientApps: each message in a process of its own, nothing imported twice, and every crash survived."""

import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from federation_processes import Fleet

pytestmark = pytest.mark.federation

COUNTING = Path(__file__).parent / "apps" / "counting"


def _wait_for_replies(fleet: Fleet, count: int, timeout: float = 120) -> list[dict[str, Any]]:
    deadline = time.monotonic() + timeout
    while len(found := fleet.replies()) < count:
        assert time.monotonic() < deadline, fleet.log("train")[-2000:] + fleet.log("supernode-0")[-3000:]
        time.sleep(0.05)
    return found


def _memory(processes: list[psutil.Process]) -> int:
    """Unique set size: what would be freed if these processes ended, in bytes."""
    return sum(process.memory_full_info().uss for process in processes)


def test_fifty_messages_each_in_its_own_process_leave_no_growth_behind(fleet: Fleet) -> None:
    fleet.superlink()
    fleet.supernode(0, PYTHONUNBUFFERED="")  # as where nobody set it
    fleet.train("", COUNTING).wait(180)
    first = fleet.replies()
    assert len(first) == 3 and fleet.processes["train"].returncode == 0
    assert len({reply["pid"] for reply in first}) == 3, "each message has a process of its own"
    assert {reply["handled"] for reply in first} == {1}, (
        "what one message leaves in memory does not reach the next"
    )
    assert len({reply["imported-in"] for reply in first}) == 1, "the app was imported once"
    assert first[0]["imported-in"] not in {reply["pid"] for reply in first}

    node = psutil.Process(fleet.processes["supernode-0"].pid)
    warm = fleet.warm_processes("supernode-0")
    before = _memory([node, *warm]), node.num_fds(), [process.num_fds() for process in warm]
    fleet.train("messages=50", COUNTING).wait(180)
    replies = fleet.replies()[3:]
    assert len(replies) == 50 and len({reply["pid"] for reply in replies}) == 50
    assert {reply["imported-in"] for reply in replies} == {first[0]["imported-in"]}, (
        "the same app keeps its parent"
    )
    # A file that a thread has just open may be counted; one that stays open would be counted in all.
    assert min(reply["descriptors"] for reply in replies[-10:]) <= min(
        reply["descriptors"] for reply in first
    )
    assert fleet.log("supernode-0").count("the app is imported") == 1, "what an app prints is written once"
    assert fleet.warm_processes("supernode-0") == warm, "no process stays behind"
    after = _memory([node, *warm]), node.num_fds(), [process.num_fds() for process in warm]
    # A connection more or less is no leak; one file per message would be fifty.
    assert after[1] - before[1] < 5 and after[2] == before[2], "no open file stays behind"
    assert after[0] - before[0] < 8 * 1024 * 1024, "memory does not grow with the messages"


@pytest.mark.parametrize("victim", ["parent", "app parent", "child"])
def test_killing_any_warm_process_costs_at_most_one_reply(victim: str, fleet: Fleet) -> None:
    fleet.superlink()
    fleet.supernode(0)
    fleet.train("messages=6 sleep=0.6", COUNTING)
    _wait_for_replies(fleet, 1)
    deadline = time.monotonic() + 20
    while len(warm := fleet.warm_processes("supernode-0")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    {"parent": warm[0], "app parent": warm[1], "child": warm[2]}[victim].send_signal(signal.SIGKILL)
    replies = _wait_for_replies(fleet, 6)
    failed = [reply for reply in replies if "error" in reply]
    assert len(failed) <= 1, replies
    if victim == "child":
        assert "out of memory" in failed[0]["error"]
    assert "error" not in replies[-1], "the client recovers by itself"
    assert fleet.processes["train"].wait(60) == (3 if failed else 0), "status 3: not by all in each round"
    assert fleet.processes["supernode-0"].poll() is None


def test_a_child_that_stops_answering_is_given_up_and_replaced(fleet: Fleet) -> None:
    """A stopped process sends no heartbeat; Flower gives it 60 s, and the next message is served."""
    fleet.superlink()
    fleet.supernode(0)
    fleet.train("messages=3 sleep=3.0", COUNTING)
    _wait_for_replies(fleet, 1)
    deadline = time.monotonic() + 20
    while len(warm := fleet.warm_processes("supernode-0")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    warm[2].suspend()
    replies = _wait_for_replies(fleet, 3, timeout=150)
    assert ["error" in reply for reply in replies] == [False, True, False], replies


def test_a_child_that_ends_in_the_midst_of_its_reply_is_reported(fleet: Fleet) -> None:
    """It has announced its reply, and the objects of the reply never come."""
    fleet.superlink()
    fleet.supernode(0)
    fleet.train("messages=3 end-in-reply-at=1", COUNTING).wait(180)
    replies = fleet.replies()
    assert ["error" in reply for reply in replies] == [False, True, False], replies
    assert "status 9" in replies[1]["error"]


def test_without_the_warm_path_the_results_are_the_same(fleet: Fleet) -> None:
    fleet.superlink()
    fleet.supernode(0, BOUQUET_PATCHES="-warm")
    fleet.train("messages=2", COUNTING).wait(180)
    replies = fleet.replies()
    assert [reply["handled"] for reply in replies] == [1, 1] and replies[0]["partition-id"] == 0
    assert replies[0]["pid"] == replies[0]["imported-in"], "Flower's own executor imports for each message"
    assert "same results, slower" in fleet.log("supernode-0")


def test_a_stock_superlink_serves_these_clients(fleet: Fleet) -> None:
    """Nothing on the wire depends on the other side being Bouquet's."""
    command = "from flwr.superlink.cli.flower_superlink import flower_superlink; flower_superlink()"
    fleet.run(
        "superlink", sys.executable, "-c", command, "--insecure", "--disable-runtime-dependency-installation",
        "--fleet-api-address", f"127.0.0.1:{fleet.fleet_port}", "--port", str(fleet.control_port),
    )  # fmt: skip
    fleet.supernode(0)
    fleet.train("messages=3", COUNTING).wait(240)
    assert [reply["handled"] for reply in fleet.replies()] == [1, 1, 1]


def test_one_long_lived_worker_serves_a_run_when_asked_for(fleet: Fleet) -> None:
    fleet.superlink()
    fleet.supernode(0, BOUQUET_WORKER="persistent")
    fleet.train("messages=4", COUNTING).wait(180)
    replies = fleet.replies()
    assert len({reply["pid"] for reply in replies}) == 1 and [reply["handled"] for reply in replies] == [
        1,
        2,
        3,
        4,
    ]
    fleet.train("messages=1", COUNTING).wait(180)
    assert fleet.replies()[-1]["handled"] == 1, "another run has another worker"


def test_an_app_may_be_called_as_bouquets_own_package(fleet: Fleet, tmp_path: Path) -> None:
    """The warm process is a fork of the SuperNode, which has imported a package of this name."""
    project = tmp_path / "project"
    shutil.copytree(COUNTING / "counting", project / "app")
    settings = (COUNTING / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(settings.replace("counting.", "app."))
    fleet.superlink()
    fleet.supernode(0)
    fleet.train("messages=2", project).wait(180)
    replies = fleet.replies()
    assert [reply.get("handled") for reply in replies] == [1, 1], replies
    assert len({reply["imported-in"] for reply in replies}) == 1, "loaded ahead of its messages"


def test_an_app_that_is_not_on_the_list_is_refused_with_its_hash(fleet: Fleet) -> None:
    fleet.superlink()
    fleet.supernode(0, BOUQUET_ALLOWED_APPS="0" * 64)
    fleet.train("messages=2", COUNTING).wait(180)
    replies = fleet.replies()
    assert len(replies) == 2
    assert all("does not accept the app with hash" in str(reply.get("error")) for reply in replies)
    assert "BOUQUET_ALLOWED_APPS" in fleet.log("supernode-0")


def test_an_idle_client_is_rarely_woken(fleet: Fleet) -> None:
    """Wake-ups, not CPU time: a slow machine makes them dearer, not more. The CPU is ``python -m bench idle``'s."""
    fleet.superlink()
    fleet.supernode(0)
    fleet.train("messages=1", COUNTING).wait(180)
    time.sleep(2)
    everyone = [fleet.processes["supernode-0"].pid, *(p.pid for p in fleet.warm_processes("supernode-0"))]
    before = _wake_ups(everyone)
    time.sleep(10)
    after = _wake_ups(everyone)
    woken = {thread: after[thread] - before.get(thread, 0) for thread in after}
    # Some 300; 1100 where gRPC watches the channel, more where the client polls.
    assert sum(woken.values()) <= 600, woken


def _wake_ups(pids: list[int]) -> dict[Path, int]:
    """How often each thread of these processes has waited for something."""
    found = {}
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            status = (thread / "status").read_text()
            found[thread] = int(status.split("voluntary_ctxt_switches:")[1].split()[0])
    return found
