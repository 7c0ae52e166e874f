"""Finding runs, and reading the records of their events while they grow."""

import json
from pathlib import Path

import pytest

from app.errors import UserError
from app.watch import runs


def _write(folder: Path, *told: dict[str, object], rest: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / runs.EVENTS
    file.write_text("".join(f"{json.dumps(record)}\n" for record in told) + rest)
    return file


def test_a_run_is_found_by_name_as_the_latest_and_by_path(tmp_path: Path) -> None:
    _write(tmp_path / "results" / "one")
    (tmp_path / "results" / "latest").symlink_to("one")
    for given in ("one", "latest", str(tmp_path / "results" / "one")):
        assert runs.find(tmp_path / "results", given) == tmp_path / "results" / "one"


def test_a_run_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        _write(tmp_path / name)
    with pytest.raises(UserError, match=r"no run 'x' in .* \(BOUQUET_RESULTS\): its last ones are b, c, d"):
        runs.find(tmp_path, "x")
    with pytest.raises(UserError, match="it has none"):
        runs.find(tmp_path / "nowhere")


def test_what_a_run_did_after_its_checkpoint_does_not_count(tmp_path: Path) -> None:
    told = [{"event": "round_finished", "round": number} for number in (1, 2, 3)]
    _write(tmp_path, *told, {"event": "run_resumed", "round": 2}, {"event": "round_finished", "round": 3})
    assert [record["round"] for record in runs.records(tmp_path)] == [1, 2, 2, 3]


def test_a_tail_gives_each_record_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    tail = runs.Tail(tmp_path / runs.EVENTS)
    assert tail.new() == []
    file = _write(tmp_path, {"n": 1}, rest='not json\n[1]\n{"n": ')
    assert tail.new() == [{"n": 1}]
    with file.open("a") as more:
        more.write("2}\n")
    assert tail.new() == [{"n": 2}] and tail.new() == []
