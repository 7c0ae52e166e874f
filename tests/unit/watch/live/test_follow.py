"""Following the events of a run, on a terminal and as lines."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from app.watch import runs
from app.watch.live import follow

STARTED: dict[str, object] = {
    "event": "run_started",
    "flower_run": "77",
    "mode": "local",
    "dataset": "d",
    "checksum": "",
}
STARTED |= {"shape": [], "classes": [], "settings": {"num-server-rounds": 2}, "versions": {}}
CONNECTED = {"event": "clients_connected", "clients": [{"node_id": 1, "partition_id": 0, "name": "site"}]}
ENDED = {
    "event": "run_finished",
    "status": "completed",
    "rounds": 1,
    "seconds": 1.0,
    "participation": "1 of 1",
}
UNKNOWN = {"event": "from_the_future", "round": 1}


def write(results: Path, *told: Mapping[str, object], run: str = "one") -> Path:
    folder = results / run
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / runs.EVENTS).open("a") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in told)
    link = results / "latest"
    link.unlink(missing_ok=True)
    link.symlink_to(run)
    return folder


def test_a_run_is_found_by_flowers_id_also_when_it_goes_on(tmp_path: Path) -> None:
    folder = write(tmp_path, STARTED, STARTED | {"flower_run": "78"})
    write(tmp_path, STARTED | {"flower_run": "9"}, run="two")
    assert runs.of_flower_run(tmp_path, 77) == runs.of_flower_run(tmp_path, 78) == folder
    assert runs.of_flower_run(tmp_path, 7) is None and runs.of_flower_run(tmp_path / "no", 77) is None


def test_lines_are_those_of_the_console_and_end_with_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, STARTED, UNKNOWN, CONNECTED, ENDED)
    follow.watch(tmp_path, "one", plain=False)  # no terminal here
    assert capsys.readouterr().out.splitlines() == [
        "run one",
        "1 clients connected",
        "finished: 1 of 1; not evaluated after round 1, results in one",
    ]


def test_a_run_that_has_ended_is_not_under_way(tmp_path: Path) -> None:
    assert runs.under_way(tmp_path) is None
    folder = write(tmp_path, STARTED)
    assert runs.under_way(tmp_path) == folder
    write(tmp_path, ENDED)
    assert runs.under_way(tmp_path) is None
    write(tmp_path, STARTED)
    assert runs.under_way(tmp_path) == folder, "it goes on"


def test_a_terminal_shows_the_view_below_the_lines(tmp_path: Path) -> None:
    folder = write(tmp_path, STARTED, CONNECTED)
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=80, height=24)
    screen = follow.Screen(console, lambda: folder)
    screen.begin()
    screen.say("a \x1b[32mline\x1b[0m")
    screen.stop()
    assert screen.view is not None and list(screen.view.clients) == ["site"]
    assert "round 0 of 2" in terminal.getvalue() and "site" in terminal.getvalue()
    assert terminal.getvalue().rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in terminal.getvalue(), (
        "the cursor is back"
    )


def test_a_record_that_is_wrong_is_left_out() -> None:
    assert runs.as_event({"event": "run_finished"}) is None
    assert runs.as_event({"event": "client_lost", "round": 1, "phase": "train", "client": {}}) is None
    assert runs.as_event({}) is None and runs.as_event(UNKNOWN) is None
    event = runs.as_event({**ENDED, "new_field": 1})
    assert event is not None and event.name() == "run_finished"


def test_control_characters_go_and_words_stay() -> None:
    assert follow.without_control("\x1b[1;32mINFO\x1b[0m ok\t\x1b]0;title\x07\x07é\r") == "INFO ok\té"
