"""What a run leaves behind, made from its events."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from app.rounds import events
from app.rounds.console import Console
from app.rounds.events import Client, Stream
from app.rounds.results import EventLog, History, ResultsFolder, Summary, SummaryFile, read_events

ONE, TWO = Client(100, 0, "hospital-a"), Client(101, 1)
STORY: list[events.Event] = [
    events.RunStarted(
        "77", "local", "digits", "ab" * 32, [1, 8, 8], ["0", "1"], {"seed": 42}, {"flwr": "1.39.0"}
    ),
    events.ClientsAwaited(1, 2),
    events.ClientsConnected([ONE, TWO]),
    events.PhaseStarted(1, "train", [ONE, TWO]),
    events.ReplyRejected(1, "train", TWO, "array bias holds NaN or infinity"),
    events.ReplyAccepted(1, "train", ONE, 80, 2.5, 0.125, 1.23456789, 1000, 900, "cpu"),
    events.PhaseFinished(1, "train", 1, 1, 0, 1.5, 2000, 1800),
    events.ReplyLate(1, "evaluate", TWO, "no reply within 5 s (round-deadline, grace)"),
    events.PhaseFinished(1, "evaluate", 0, 0, 1, 5.0, 1000, 0),
    events.RoundFinished(1, 2, 6.5432, float("nan"), 0.25, 2.5, None, 1, 0, None, None),
    events.RoundFinished(2, 2, 1.0, 1.5, 0.5, 2.0, 0.4, 2, 1, (8000, 6000), {"epsilon": 3.0}),
    events.RunFinished("completed", 2, 9.0, 1.5, 0.5, "", "2 of 2 clients took part in every round"),
]


def _tell(folder: Path) -> Summary:
    summary = Summary(run="the-run")
    stream = Stream("the-run", [EventLog(folder), History(folder), SummaryFile(folder, summary)])
    for event in STORY:
        stream.emit(event)
    assert not stream.failing
    return summary


def test_every_event_is_a_line_with_its_stamp(tmp_path: Path) -> None:
    _tell(tmp_path)
    records = list(read_events(tmp_path / "events.jsonl"))
    assert [record["event"] for record in records] == [event.name() for event in STORY]
    assert {(record["run"], record["schema"]) for record in records} == {("the-run", events.SCHEMA)}
    assert all(record["time"].endswith("+00:00") for record in records)
    assert records[4]["client"] == {"node_id": 101, "partition_id": 1, "name": ""}
    assert records[9]["loss"] is None, "JSON has no NaN"


def test_a_line_that_a_crash_cut_short_harms_no_other(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    stream = Stream("r", [log])
    stream.emit(STORY[1])
    file = tmp_path / "events.jsonl"
    file.write_bytes(file.read_bytes() + b'{"event": "round_fin')
    assert len(list(read_events(file))) == 1
    stream.emit(STORY[2])
    assert [record["event"] for record in read_events(file)] == ["clients_awaited", "clients_connected"]


def test_history_has_a_row_for_each_client_and_for_the_server(tmp_path: Path) -> None:
    _tell(tmp_path)
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["round"], row["phase"], row["partition_id"]) for row in rows] == [
        ("1", "train", "0"),
        ("1", "server", ""),
        ("2", "server", ""),
    ]
    assert rows[0] == {
        "round": "1", "phase": "train", "partition_id": "0", "node_id": "100", "num_examples": "80", "loss": "2.5",
        "accuracy": "0.125", "seconds": "1.23457", "bytes_down": "1000", "bytes_up": "900",
    }  # fmt: skip


def test_the_summary_is_made_from_the_events(tmp_path: Path) -> None:
    _tell(tmp_path)
    summary: dict[str, Any] = json.loads((tmp_path / "summary.json").read_text())
    assert summary["run"] == "the-run" and summary["flower_run"] == "77" and summary["dataset"] == "digits"
    assert summary["num_clients"] == 2 and summary["rounds"] == 2 and summary["wall_s"] == 9.0
    assert summary["accuracy_per_round"] == [0.25, 0.5] and summary["client_accuracy_per_round"] == [
        None,
        0.4,
    ]
    assert summary["bytes_per_client_and_round"] == {"down": 2000, "up": 1500}, "as the SuperLink counted"
    assert summary["privacy"] == {"epsilon": 3.0} and summary["settings"] == {"seed": 42}
    assert [(f["round"], f["phase"], f["client"]) for f in summary["failures"]] == [
        (1, "train", "partition 1"),
        (1, "evaluate", "partition 1"),
    ]


def test_a_stock_superlink_leaves_the_count_of_the_records(tmp_path: Path) -> None:
    sink = SummaryFile(tmp_path, summary := Summary(run="r"))
    for event in STORY[:10]:
        sink.take(event, {})
    assert summary.bytes_per_client_and_round == {"down": 1500, "up": 900}


def test_people_read_a_line_for_each_phase_and_each_failure(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream("r", [Console("results/r")])
    for event in STORY:
        stream.emit(event)
    assert capsys.readouterr().out.splitlines() == [
        "waiting for clients: 1 of 2 connected",
        "2 clients connected",
        "round 1: train goes on without partition 1: array bias holds NaN or infinity",
        "round 1: train has 1 of 2 replies after 1.5 s",
        "round 1: evaluate goes on without partition 1: no reply within 5 s (round-deadline, grace)",
        "round 1/2  accuracy 0.2500  loss nan  training loss 2.5000  6.5 s  (1 trained, 0 evaluated)",
        "round 2/2  accuracy 0.5000  loss 1.5000  training loss 2.0000  clients' accuracy 0.4000  1.0 s  "
        "(2 trained, 1 evaluated)",
        "finished: 2 of 2 clients took part in every round; accuracy 0.5000 after round 2, results in results/r",
    ]


def test_a_sink_that_fails_is_reported_once_and_heals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "gone"
    stream = Stream("r", [EventLog(folder), History(folder), Console()])
    stream.emit(STORY[1])
    stream.emit(STORY[2])
    assert "History" not in stream.failing, "it has had nothing to write"
    stream.emit(STORY[5])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("warning: results cannot be written") and "events.jsonl" in lines[0]
    assert lines[1:3] == ["waiting for clients: 1 of 2 connected", "2 clients connected"], "training goes on"
    assert "history.csv" in lines[3] and len(lines) == 4
    assert stream.failing.keys() == {"EventLog", "History"}
    stream.emit(STORY[11])
    assert "History" in stream.failing, "this event has no row, and the row before is not written yet"
    folder.mkdir()
    stream.emit(STORY[3])
    assert not stream.failing
    seen = [record["event"] for record in read_events(folder / "events.jsonl")]
    assert seen == [STORY[number].name() for number in (1, 2, 5, 11, 3)], "nothing is lost"
    with (folder / "history.csv").open() as file:
        assert [row["phase"] for row in csv.DictReader(file)] == ["train"]


@pytest.mark.parametrize("name", ["events.jsonl", "history.csv"])
def test_a_line_that_a_full_disk_cut_short_is_written_again(name: str, tmp_path: Path) -> None:
    sinks: list[events.Sink] = [EventLog(tmp_path), History(tmp_path)]
    for sink in sinks:
        sink.take(STORY[5], {"number": 1})
    file = tmp_path / name
    whole = file.read_bytes()
    file.write_bytes(whole + b"half a li")
    for sink in sinks:
        sink.take(STORY[5], {"number": 1})
    for sink in (EventLog(tmp_path), History(tmp_path)):  # of a run that goes on later
        sink.take(STORY[5], {"number": 1})
    lines = file.read_bytes().splitlines()
    assert lines[: len(whole.splitlines())] == whole.splitlines()
    assert set(lines[-3:]) == {whole.splitlines()[-1]}


def test_the_latest_run_is_linked(tmp_path: Path) -> None:
    for run in ("first", "second"):
        folder = ResultsFolder(tmp_path, run)
        assert folder.path == tmp_path / run and (tmp_path / "latest").readlink() == Path(run)


def test_a_run_that_goes_on_has_each_round_once(tmp_path: Path) -> None:
    _tell(tmp_path)
    (tmp_path / "history.csv").write_bytes((tmp_path / "history.csv").read_bytes() + b"3,train,0")
    ResultsFolder(tmp_path.parent, tmp_path.name).forget_after(1)
    with (tmp_path / "history.csv").open() as file:
        assert [row["round"] for row in csv.DictReader(file)] == ["1", "1"]


def test_a_summary_goes_on_where_it_was(tmp_path: Path) -> None:
    before = Summary(run="r", num_clients=2, rounds=1, wall_s=5.0, round_s=[5.0], accuracy_per_round=[0.25])
    before.bytes_per_client_and_round = {"down": 1000, "up": 800}
    before.rounds_missed = {"hospital-a": 0, "partition 1": 1}
    sink = SummaryFile(tmp_path, before)
    resumed = events.RunResumed(1, "checkpoint/1", [])
    for event in (STORY[0], resumed, STORY[2], *STORY[10:]):
        sink.take(event, {})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["resumed_from"] == [1] and summary["rounds"] == 2 and summary["wall_s"] == 14.0
    assert summary["accuracy_per_round"] == [0.25, 0.5]
    # 1000 down and 800 up before, and what the SuperLink counted since: 8000 and 6000 of two clients.
    assert summary["bytes_per_client_and_round"] == {"down": 2500, "up": 1900}
    assert next(iter(summary)) == "participation", "who took part comes first"


def test_an_evaluation_is_a_table_by_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(run="r")
    stream = Stream("r", [SummaryFile(tmp_path, summary), Console(str(tmp_path))])
    story: list[events.Event] = [
        STORY[0],
        STORY[2],
        events.PhaseStarted(0, "evaluate", [ONE, TWO]),
        events.ReplyAccepted(0, "evaluate", ONE, 80, 2.5, 0.125, 1.0, 10, 10, "cpu"),
        events.ReplyLate(0, "evaluate", TWO, "it is offline"),
        events.ModelEvaluated("m", 2.25, 0.25, 0.125, 1),
    ]
    for event in story:
        stream.emit(event)
    assert [(row["client"], row["accuracy"]) for row in summary.evaluation] == [("hospital-a", 0.125)]
    assert summary.participation == "1 of 2 clients took part in the evaluation; partition 1 missed 1 of 1"
    assert capsys.readouterr().out.splitlines()[1:] == [
        "client                   examples     loss accuracy",
        "hospital-a                     80   2.5000   0.1250",
        "round 0: evaluate goes on without partition 1: it is offline",
        "server's test split                 2.2500   0.2500",
    ]
