"""The live view of a real run, on real terminals; and looking on without harm."""

import hashlib
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation_processes import bouquet, bouquet_until, leftovers
from terminal import Terminal

pytestmark = pytest.mark.federation

RUN = ("--clients", "3", "--rounds", "6", "--config", "fraction-evaluate=1.0")
_CONTROL = re.compile(r"[^\n\t -~\u00a0-\uffff]")


@pytest.fixture
def up(small_store: Path, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """The command of one run; nothing of it is left."""
    results = str(tmp_path / "results")
    yield ("up", "--data", str(small_store), "--results", results, *RUN)
    assert not leftovers(results)


@pytest.fixture(scope="module")
def unseen(
    small_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> "tuple[subprocess.CompletedProcess[str], Path]":
    """The same run, at which nobody looks: what it has printed to a pipe, and its results."""
    results = tmp_path_factory.mktemp("unseen") / "results"
    return bouquet("up", "--data", str(small_store), "--results", str(results), *RUN), results


def model_of(results: Path) -> str:
    return hashlib.sha256((results / "latest" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50)])
def test_a_terminal_shows_rounds_clients_and_what_is_left(
    up: tuple[str, ...], columns: int, lines: int
) -> None:
    with Terminal(*up, columns=columns, lines=lines) as terminal:
        screen = terminal.until(lambda text: "round 2 of 6" in text and text.endswith("╯"))
        assert {f"partition {number}" for number in range(3)} <= set(re.findall(r"partition \d", screen))
        for words in (
            r"about 0:\d\d left",
            r"accuracy 0\.\d{4} \(best",
            r"transfer [\d.]+ \wB to the clients",
        ):
            assert re.search(words, screen), screen
        box = [line for line in screen.splitlines() if line.startswith(("│", "╭", "╰"))]
        assert {len(line) for line in box} == {columns} and len(box) < lines
        assert terminal.end() == 0
        assert "finished: 3 of 3 clients" in terminal.text and terminal.shows_cursor
        assert "╭" not in terminal.text, "the lines stay, the view goes"


def test_a_pipe_gets_lines_without_control_characters(
    unseen: "tuple[subprocess.CompletedProcess[str], Path]",
) -> None:
    done, _ = unseen
    assert done.returncode == 0 and not _CONTROL.search(done.stdout + done.stderr), done
    assert re.search(r"^round 1: train has 3 of 3 replies after [\d.]+ s$", done.stdout, re.M)


def test_who_looks_on_and_goes_away_changes_nothing(
    up: tuple[str, ...], tmp_path: Path, unseen: "tuple[subprocess.CompletedProcess[str], Path]"
) -> None:
    results = tmp_path / "results"
    with (
        Terminal("watch", "--results", str(results)) as first,
        Terminal("watch", "--results", str(results), columns=200, lines=50) as second,
    ):
        first.until(lambda text: "no run is under way" in text)
        run = bouquet_until("round 1/", *up)
        first.until(lambda text: re.search(r"round [1-5] of 6", text) is not None)
        first.process.send_signal(signal.SIGINT)
        assert first.end() == 130 and first.shows_cursor
        second.until(lambda text: re.search(r"round [1-5] of 6", text) is not None)
        second.process.kill()
        second.end()
        said = bouquet(
            "watch", "--results", str(results)
        ).stdout  # follows it to its end, or shows that it has
        assert run.stdout is not None
        run.stdout.read()
        assert run.wait(120) == 0 and "finished: 3 of 3 clients" in said
    assert model_of(results) == model_of(unseen[1])


def test_a_run_that_is_over_can_be_shown_by_name(
    unseen: "tuple[subprocess.CompletedProcess[str], Path]",
) -> None:
    results = unseen[1]
    name = (results / "latest").resolve().name
    with Terminal("watch", "--results", str(results), "--run", name) as terminal:
        assert terminal.end() == 0 and "completed" in terminal.text and "round 6 of 6" in terminal.text
    done = bouquet("watch", "--results", str(results), "--run", "nothing")
    assert done.returncode == 2 and "there is no run 'nothing'" in done.stderr
