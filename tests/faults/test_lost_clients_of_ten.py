"""Faults of clients cost the others no round: ten clients with certificates, keys and few pictures each."""

import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from faulty_federation import Federation
from faulty_run import FaultyRun
from federation_processes import ROOT
from memory_limit import memory_limit

from bench.faults.line import Line

pytestmark = pytest.mark.federation

# More rounds than there is time for: a test stops the run when it has seen what it wants.
ENDLESS = "num-server-rounds=2000 fraction-evaluate=0.0 min-replies=0.6"
HOUR_S = 3600
EPSILON = 2 << 20


def test_clients_that_die_or_sleep_cost_the_others_no_round(ten: Federation) -> None:
    run = FaultyRun(ten, f"{ENDLESS} seed=1 round-deadline=20.0")
    run.wait_for_round(3)

    ten.wait_until_at_work("supernode-1")
    run.inject("SIGKILL of a client in training", lambda: ten.kill("supernode-1"), "client-1")
    ten.supernode(1)
    run.wait_until_taking_part("client-1")
    nodes = re.findall(r"client-1 is online \(node (\w+)", ten.log("superlink"))
    assert len(nodes) >= 2 and len(set(nodes)) == 1, "it is the same node"

    ten.wait_until_at_work("supernode-2")
    run.inject("SIGKILL of its warm parent", lambda: ten.warm_processes("supernode-2")[0].kill(), "client-2")
    run.wait_until_taking_part("client-2")
    assert "The warm parent has ended; starting a new one" in ten.log("supernode-2")

    ten.restart(3, BOUQUET_LOST_AFTER="60")  # still online when the deadline has passed
    run.wait_until_taking_part("client-3")
    ten.wait_until_at_work("supernode-3")
    run.inject("SIGSTOP of a client past the deadline", lambda: ten.pause("supernode-3"), "client-3")
    try:
        late = run.wait_for_event("reply_late", client="client-3")
    finally:
        ten.resume("supernode-3")
    assert "round-deadline" in late["reason"]
    run.wait_until_taking_part("client-3")

    summary = run.stop()
    missed = summary["rounds_missed"]
    # Client 1 may have been back in time: what it was asked is then sent to it again, and it misses nothing.
    assert missed["client-3"] and summary["late_replies"] == 1, summary
    assert "client-3 missed" in summary["participation"]


def test_lines_that_are_slow_or_cut_cost_the_others_no_round(ten: Federation) -> None:
    with Line(ten.fleet_port, delay_s=0.2) as slow, Line(ten.fleet_port) as short:
        ten.lines |= {4: slow.port, 5: short.port}
        for number in (4, 5):
            ten.restart(number)
        run = FaultyRun(ten, f"{ENDLESS} seed=2")
        run.wait_for_round(3)

        def stall() -> None:
            slow.cut()
            ten.outage(3)
            slow.mend()

        run.inject("line with 200 ms of delay, which stalls", stall, "client-4")
        run.wait_for_more_rounds(2)
        ten.wait_until_at_work("supernode-5")
        run.inject("line cut off in training", short.cut, "client-5")
        run.wait_for_event("client_lost", client="client-5")
        run.wait_for_more_rounds(2)
        short.mend()
        run.wait_until_taking_part("client-5")
        summary = run.stop()
        assert ten.processes["supernode-5"].poll() is None, "it has not been started again"
        assert "client-4" not in {each["client"] for each in summary["failures"]}
        assert "client-5 missed" in summary["participation"]


def test_hosts_with_a_wrong_clock_without_memory_or_data_cost_the_others_no_round(
    ten: Federation, tmp_path: Path
) -> None:
    clock, store = tmp_path / "wrong_clock.so", tmp_path / "store"
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-o",
        str(clock),
        str(ROOT / "tests" / "support" / "wrong_clock.c"),
        "-ldl",
    ]
    subprocess.run(command, check=True)
    shutil.copytree(ten.store, store)
    ten.restart(8, BOUQUET_DATA=str(store))
    with memory_limit(f"bouquet-test-{os.getpid()}") as limit:
        ten.stop_one("supernode-7")
        limit.take(ten.supernode(7))
        run = FaultyRun(ten, f"{ENDLESS} seed=3")
        run.wait_for_round(3)

        for off_by in (HOUR_S, -HOUR_S):
            ten.stop_one("supernode-6")
            run.inject(
                f"a client's clock is off by {off_by} s",
                partial(ten.supernode, 6, LD_PRELOAD=str(clock), CLOCK_OFF_BY=str(off_by)),
                "client-6",
            )
            assert ten.processes["supernode-6"].wait(60) == 77, ten.log("supernode-6")
            run.wait_for_more_rounds()
        assert "set this host's clock" in ten.log("supernode-6")
        ten.supernode(6)
        run.wait_until_taking_part("client-6")

        run.inject(
            "a client is out of memory (a cgroup's limit)", lambda: limit.leave_free(EPSILON), "client-7"
        )
        run.wait_for_a_miss("client-7")
        run.wait_for_more_rounds()
        limit.lift()
        if ten.processes["supernode-7"].poll() is not None:  # the kernel chooses which process it ends
            limit.take(ten.supernode(7))
        run.wait_until_taking_part("client-7")

        pictures = store / "partition-8" / "train_images.npy"
        whole = pictures.read_bytes()
        run.inject("a client's data cannot be read any more", lambda: os.truncate(pictures, 0), "client-8")
        run.wait_for_a_miss("client-8")
        run.wait_for_more_rounds()
        pictures.write_bytes(whole)
        run.wait_until_taking_part("client-8")

        summary = run.stop()
        ten.restart(7)
    ten.restart(8)
    assert {"client-7", "client-8"} <= {each["client"] for each in summary["failures"]}


def test_all_clients_are_gone_and_come_back(ten: Federation) -> None:
    run = FaultyRun(ten, f"{ENDLESS} seed=5")
    run.wait_for_round(2)

    def kill_all() -> None:
        for number in range(10):
            ten.kill(f"supernode-{number}")

    run.inject("SIGKILL of all clients", kill_all, "client-0")
    ten.wait_until_offline(9)
    for number in range(10):
        ten.supernode(number)
    run.wait_for_more_rounds(2)
    run.wait_until_taking_part("client-9")
    run.stop()


def test_three_of_ten_are_killed_for_good(ten: Federation) -> None:
    run = FaultyRun(ten, f"{ENDLESS} seed=4".replace("2000", "8"))
    run.wait_for_round(2)

    def kill_three() -> None:
        for number in (7, 8, 9):
            ten.kill(f"supernode-{number}")

    run.inject("SIGKILL of three of ten clients, for good", kill_three, "client-7")
    summary = run.end(3)
    assert summary["status"] == "subset" and "client-7 missed" in summary["participation"]
    assert all(summary["rounds_missed"][f"client-{number}"] >= 5 for number in (7, 8, 9)), summary
    assert summary["participation"] in ten.log("train").splitlines()[-1]
    # Nobody begins without enough of them.
    process = ten.train("num-server-rounds=1 min-replies=0.9 wait-for-clients=3.0")
    assert process.wait(120) == 1 and "of 10 clients are connected after 3 s (wait-for-clients)" in ten.log(
        "train"
    )
