"""What counts as lost, and what the table of the faults says."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from bench.faults import bouquet, table
from bench.faults.case import FAULTS, tells
from bench.faults.contract import Work
from bench.faults.line import Line
from bench.faults.measure import Column, Report
from bench.faults.verdict import (
    Mark,
    Outcome,
    round_seconds,
    rounds_again,
    rounds_begun,
    rounds_missed,
    run_longer_s,
    seconds_lost,
)
from bench.processes import free_ports

GONE = next(fault for fault in FAULTS if fault.key == "gone")


def trained(client: int, *rounds: int, end: bool = True) -> list[Mark]:
    """A client's marks of these rounds; without ``end`` it was cut off in each."""
    what: list[Literal["begin", "end"]] = ["begin", "end"] if end else ["begin"]
    return [Mark(each, client, number, 10.0 * number) for number in rounds for each in what]


def outcome(fault: str = "gone", seconds: float = 100.0, *, done: bool = True, **more: object) -> Outcome:
    given: dict[str, object] = {"ended": done, "word": "done" if done else "", **more}
    return Outcome(fault, done, seconds=seconds, **given)  # type: ignore[arg-type]


def report(*outcomes: Outcome, undisturbed: tuple[float, ...] = (90.0, 94.0)) -> Report:
    runs = [outcome("undisturbed", seconds) for seconds in undisturbed]
    column = Column("bouquet", "Bouquet", ("`min-replies`",), undisturbed=runs, outcomes=list(outcomes))
    machine = {
        "processor": "a CPU", "cores": 2, "memory_gb": 24.0, "gpu": None,
        "versions": dict.fromkeys(("python", "torch", "flwr", "nvflare", "ray"), "1"),
    }  # fmt: skip
    return Report(Work(Path("store")), 180.0, "2026-01-01", machine, [GONE], [column], load=[1.0])


def cells(found: Report) -> dict[str, str]:
    return {row[0]: row[1] for row in table.rows(found)}


def test_a_round_is_lost_when_another_client_than_the_faulty_one_had_to_train_in_it_again() -> None:
    faulty = [*trained(1, 1), *trained(1, 2, end=False), *trained(1, 2, 3)]
    assert rounds_again([*faulty, *trained(2, 1, 2, 3)], faulty=1) == 0, "its own loss is no lost round"
    assert rounds_again([*faulty, *trained(2, 1, 2, 2, 3), *trained(3, 1, 2, 2, 3)], faulty=1) == 1
    assert rounds_again([*trained(2, 1, 2, 1, 2, 3)], faulty=1) == 2, "the run began anew"


def test_a_client_missed_the_rounds_that_others_finished_without_it() -> None:
    marks = [*trained(1, 1), *trained(1, 2, end=False), *trained(1, 4), *trained(2, 1, 2, 3, 4)]
    assert rounds_missed(marks, 1) == 2
    assert rounds_missed(marks, 2) == 0
    assert rounds_begun(marks) == 4 and rounds_begun([]) == 0


def test_the_seconds_of_a_fault_are_those_that_its_round_took_more_than_the_others() -> None:
    began = {1: 0.0, 2: 30.0, 3: 40.0, 4: 75.0, 5: 86.0}  # the first is slow anyway; the third has the fault
    marks = [Mark("begin", 2, number, when) for number, when in began.items()]
    marks += [Mark("begin", 3, 3, 60.0), Mark("begin", 1, 4, 41.0), Mark("end", 2, 5, 95.0)]
    assert round_seconds(marks, faulty=1) == {1: 30.0, 2: 10.0, 3: 35.0, 4: 11.0, 5: 9.0}
    assert seconds_lost(marks, faulty=1, fault_round=3) == 25.0
    assert round_seconds([], faulty=1) == {}


def test_a_whole_run_is_compared_with_the_mean_of_the_undisturbed_ones() -> None:
    runs = [outcome("undisturbed", 90.0), outcome("undisturbed", 94.0)]
    assert run_longer_s(outcome(seconds=102.0), runs) == 10.0


def test_the_table_says_what_a_run_that_went_on_has_cost() -> None:
    marks = [*trained(1, 1), *trained(2, 1, 2, 3, 4), Mark("begin", 2, 5, 55.0), Mark("end", 2, 5, 65.0)]
    said = cells(report(outcome(seconds=107.0, marks=marks, noticed_s=14.4, told=True)))
    assert said["undisturbed runs, s"] == "90 and 94"
    assert said[GONE.title] == "0 rounds, 0 s; the client missed 4"
    late = [mark if mark.round < 4 else replace(mark, time=mark.time + 15) for mark in marks]
    assert cells(report(outcome(marks=late)))[GONE.title] == "0 rounds, 15 s; the client missed 4"
    assert said["a killed client is noticed after, s (client killed, for good)"] == "14"
    assert said["the end result names who missed rounds"] == "yes"
    assert said["settings touched"] == "`min-replies`"


@pytest.mark.parametrize(
    ("ended", "word", "expected"),
    [
        (False, "RUNNING", "never: > 180 s; 4 rounds lost"),
        (True, "finished:failed", "run ended as finished:failed; 4 rounds lost"),
    ],
)
def test_the_table_says_of_a_run_that_did_not_go_on_how_it_stood(
    ended: bool, word: str, expected: str
) -> None:
    said = cells(report(outcome(done=False, ended=ended, word=word, marks=trained(2, 1, 2, 3, 4))))
    assert said[GONE.title] == expected
    assert said["a killed client is noticed after, s (client killed, for good)"] == "> 180"
    assert said["the end result names who missed rounds"] == "no such run ended"


def test_what_could_not_be_measured_says_why() -> None:
    found = report(outcome(done=False, problem="it did not start"))
    assert cells(found)[GONE.title] == "not measured: it did not start"
    found.columns[0].problem = "FLARE needs bash"
    found.columns[0].undisturbed = []
    assert cells(found)["undisturbed runs, s"] == "not measured: FLARE needs bash"


def test_an_end_result_tells_only_when_it_says_of_the_client_that_it_missed_something() -> None:
    assert tells("2 of 3 clients took part in every round; site-1 missed 4 of 12", ["site-1"])
    assert not tells('"job_deploy_detail": ["server: OK", "site-1: OK"]', ["site-1"])
    assert not tells("1 client failed", ["site-1"])


def test_the_clients_of_the_copied_app_leave_marks(tmp_path: Path) -> None:
    copy = bouquet.project(tmp_path / "project") / "app"
    text = (copy / "client_app.py").read_text()
    compile(text, "client_app.py", "exec")
    assert "mods=[benchmark_mod, packing_mod, privacy_mod]" in text
    assert "def training(" in (copy / "bench_work.py").read_text()


def test_nothing_passes_a_cut_line_and_all_of_it_arrives_when_it_is_mended() -> None:
    port, target = free_ports(2)
    with (
        socket.create_server(("127.0.0.1", target)) as server,
        Line(target, port) as line,
        socket.create_connection(("127.0.0.1", port), timeout=5) as ours,
    ):
        theirs = server.accept()[0]
        theirs.settimeout(5)
        ours.sendall(b"one")
        assert theirs.recv(10) == b"one"
        line.cut()
        ours.sendall(b"two")
        theirs.settimeout(0.3)
        with pytest.raises(TimeoutError):
            theirs.recv(10)
        line.mend()
        theirs.settimeout(5)
        assert theirs.recv(10) == b"two"
        theirs.close()
