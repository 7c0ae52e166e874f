"""TensorBoard's event files: what they hold is what the run's history holds, each point once."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.rounds import events
from app.rounds.results import History, finite
from app.watch.monitor.scalars import MOST_CLIENTS
from app.watch.monitor.tensorboard import EventFiles
from app.watch.runs import Record

A, B = events.Client(1, 0, "hospital-a"), events.Client(2, 1, "")
Lines = dict[str, dict[int, float]]


def reply(client: events.Client, number: int, phase: str, value: float) -> events.ReplyAccepted:
    return events.ReplyAccepted(number, phase, client, 10, value, value / 2, value, 7, 5, "cpu", value)


def round_finished(number: int, value: float) -> events.RoundFinished:
    numbers: dict[str, Any] = dict.fromkeys(events.RoundFinished.__dataclass_fields__)
    told = {"round": number, "rounds": 3, "seconds": 3.0, "loss": value, "accuracy": value / 4}
    return events.RoundFinished(**numbers | told)


def happened(number: int, value: float) -> list[events.Event]:
    """A round."""
    return [
        reply(A, number, "train", value),
        reply(B, number, "train", value + 1),
        events.PhaseFinished(number, "train", 2, 0, 0, 2.0, 14, 10),
        reply(B, number, "evaluate", value),
        round_finished(number, value),
    ]


def records(*of: events.Event, second: int = 0) -> list[Record]:
    return [
        finite({"event": each.name(), "time": f"2026-11-30T12:00:{second:02}+00:00", **asdict(each)})
        for each in of
    ]


def lines(folder: Path) -> Lines:
    """Each line of a run, as TensorBoard itself reads it, with its points."""
    read = EventAccumulator(str(folder))
    read.Reload()
    return {tag: {each.step: each.value for each in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


def test_the_lines_are_those_of_the_history(tmp_path: Path) -> None:
    told = [*happened(1, 0.5), *happened(2, 0.25)]
    history = History(tmp_path)
    for event in told:
        history.take(event, {"event": event.name(), **asdict(event)})
    files = EventFiles(tmp_path / "logs")
    files.take(Path("run"), records(*told[:5]))
    files.take(Path("run"), records(*told[5:], second=9))
    run = lines(tmp_path / "logs" / "run")
    clients = {
        "0": lines(tmp_path / "logs" / "run" / "hospital-a"),
        "1": lines(tmp_path / "logs" / "run" / "partition 1"),
    }
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        number, phase = int(row["round"]), row["phase"]
        if phase == "server":
            assert run["loss/server"][number] == float(row["loss"])
            assert run["accuracy/server"][number] == float(row["accuracy"])
        else:
            of = clients[row["partition_id"]]
            for name in ("loss", "accuracy", "seconds"):
                assert of[f"clients/{phase} {name}"][number] == float(row[name])
            assert of[f"clients/{phase} bytes up"][number] == float(row["bytes_up"])
    assert len(rows) == 8
    assert clients["0"]["clients/update length"] == {1: 0.5, 2: 0.25}
    assert run["seconds/train"] == {1: 2, 2: 2} and run["bytes/train down"] == {1: 14, 2: 14}
    assert run["replies/train accepted"] == {1: 2, 2: 2}


@pytest.mark.parametrize("at_once", [True, False], ids=["afterwards", "while it runs"])
def test_a_run_that_goes_on_shows_no_point_twice(tmp_path: Path, at_once: bool) -> None:
    before = records(*happened(1, 0.5), *happened(2, 0.25), *happened(3, 0.125))
    after = records(events.RunResumed(1, "checkpoint/1", []), *happened(2, 2.0), second=30)
    files = EventFiles(tmp_path)
    for part in [[*before, *after]] if at_once else [before, after]:
        files.take(Path("run"), part)
    assert lines(tmp_path / "run")["loss/server"] == {1: 0.5, 2: 2.0}
    assert lines(tmp_path / "run" / "hospital-a")["clients/train loss"] == {1: 0.5, 2: 2.0}


def test_files_of_before_are_made_anew(tmp_path: Path) -> None:
    for _ in range(2):
        EventFiles(tmp_path).take(Path("run"), records(*happened(1, 0.5)))
    assert lines(tmp_path / "run")["loss/server"] == {1: 0.5}
    read = EventAccumulator(str(tmp_path / "run"))
    read.Reload()
    assert len(read.Scalars("loss/server")) == 1


def test_settings_are_shown_and_records_of_another_form_do_no_harm(tmp_path: Path) -> None:
    started = events.RunStarted("7", "up", "digits", "", [1], ["a"], {"seed": 42, "x": "a|b"}, {})
    odd: list[Any] = [{}, {"event": 3}, {"event": "round_finished", "time": "x"}, {"event": "reply_accepted"}]
    EventFiles(tmp_path).take(Path("run"), [*odd, *records(started, *happened(1, float("nan")))])
    read = EventAccumulator(str(tmp_path / "run"))
    read.Reload()
    [text] = (
        read.Tensors("run/text_summary")
        if "run/text_summary" in read.Tags()["tensors"]
        else read.Tensors("run")
    )
    assert b"| seed | 42 |" in text.tensor_proto.string_val[0]
    assert "loss/server" not in read.Tags()["scalars"], "what is not finite is no point"


def test_names_from_outside_leave_no_folder_and_are_bounded(tmp_path: Path) -> None:
    clients = [events.Client(number, None, f"../../x{number}") for number in range(2 * MOST_CLIENTS)]
    EventFiles(tmp_path / "logs").take(
        Path("run"), records(*(reply(client, 1, "train", 0.5) for client in clients))
    )
    assert [each.name for each in tmp_path.iterdir()] == ["logs"]
    assert len(list((tmp_path / "logs" / "run").iterdir())) == MOST_CLIENTS
    json.dumps(lines(tmp_path / "logs" / "run" / "_.._x7"))
