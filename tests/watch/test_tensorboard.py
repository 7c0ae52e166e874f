"""`bouquet up --monitor` and `bouquet monitor`: TensorBoard's page in a real browser shows what the run's history holds."""

import csv
import json
import re
import signal
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from browser import browser_page
from federation_processes import bouquet, bouquet_until, leftovers, until

from app.fleet.host.ports import free_port
from app.rounds import events
from app.rounds.results import EventLog

pytestmark = pytest.mark.federation


@contextmanager
def monitored(results: Path) -> Iterator[str]:
    """`bouquet monitor` over these results; the address of its page."""
    port = str(free_port())
    process = bouquet_until("TensorBoard shows", "monitor", "--results", str(results), "--tensorboard", port)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
    assert not leftovers(str(results))


@pytest.fixture(scope="module")
def watched_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `bouquet up` that was shown while it ran."""
    results, port, metrics = tmp_path_factory.mktemp("monitor") / "results", free_port(), free_port()
    done = bouquet(
        "up", "--dataset", "digits", "--clients", "2", "--rounds", "2", "--results", str(results),
        "--monitor", "--tensorboard", str(port), "--metrics", str(metrics), "--config", "fraction-evaluate=1.0",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"TensorBoard shows {results} at http://127.0.0.1:{port}/" in done.stdout
    assert not leftovers(str(results)), "the page ends with the run"
    return (results / "latest").resolve()


def scalars(page: str, run: str, tag: str) -> list[list[float]]:
    """The points of a line as the page gets them: time, step, value."""
    asked = urllib.parse.urlencode({"run": run, "tag": tag})
    try:
        with urllib.request.urlopen(f"{page}data/plugin/scalars/scalars?{asked}", timeout=20) as answer:
            found: list[list[float]] = json.load(answer)
            return found
    except urllib.error.HTTPError:  # it has not read that line yet
        return []


def test_a_figure_in_the_browser_is_that_of_the_history(watched_run: Path) -> None:
    with (watched_run / "history.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "server"]
    name = watched_run.name
    with (
        monitored(watched_run.parent) as address,
        browser_page(viewport={"width": 1440, "height": 1000}) as page,
    ):
        until(lambda: len(scalars(address, name, "accuracy/server")) == 2, 60, lambda: "no points")
        page.goto(f"{address}?smoothing=0#timeseries")
        card = page.locator("scalar-card", has_text="/server").first
        card.wait_for(timeout=60_000)
        card.locator("line-chart").hover()
        table = card.locator("scalar-card-data-table")
        table.get_by_text(re.compile(r"^\s*0\.\d+\s*$")).first.wait_for(timeout=30_000)
        shown = table.inner_text().split()
        assert name in shown
        assert f"{float(rows[-1]['accuracy']):.4g}" in shown, shown
        runs = page.locator("runs-data-table").inner_text().replace("\n", "")
        assert name in runs and f"{name}/partition 1" in runs


def test_a_run_that_goes_on_shows_each_round_once(tmp_path: Path) -> None:
    """While the page is open, which has the points of before."""

    def told(*happened: events.Event, second: int) -> None:
        log = EventLog(tmp_path / "run")
        for event in happened:
            time = f"2026-11-30T12:00:{second:02}+00:00"
            log.take(event, {"event": event.name(), "time": time, **asdict(event)})

    def finished(number: int, loss: float) -> events.RoundFinished:
        numbers: dict[str, Any] = dict.fromkeys(events.RoundFinished.__dataclass_fields__)
        return events.RoundFinished(**numbers | {"round": number, "rounds": 3, "seconds": 1.0, "loss": loss})

    def points() -> list[tuple[float, float]]:
        return [(step, value) for _, step, value in scalars(address, "run", "loss/server")]

    (tmp_path / "run").mkdir()
    told(finished(1, 4.0), finished(2, 3.0), finished(3, 2.0), second=1)
    with monitored(tmp_path) as address:
        until(lambda: points() == [(1, 4.0), (2, 3.0), (3, 2.0)], 60, lambda: str(points()))
        told(events.RunResumed(1, "checkpoint/1", []), finished(2, 8.0), second=30)
        until(lambda: points() == [(1, 4.0), (2, 8.0)], 60, lambda: str(points()))


def test_once_writes_the_files_and_ends(watched_run: Path, tmp_path: Path) -> None:
    arguments = ["monitor", "--once", "--results", str(watched_run.parent)]
    done = bouquet(*arguments, "--logs", str(tmp_path / "logs"))
    assert done.returncode == 0 and list((tmp_path / "logs" / watched_run.name).iterdir()), done
    assert bouquet(*arguments).returncode == 2, "nothing would be left"


def test_what_cannot_work_is_told_in_one_line(tmp_path: Path) -> None:
    done = bouquet("monitor", "--results", str(tmp_path / "none"))
    assert done.returncode == 2 and done.stderr.count("\n") <= 2 and "--results" in done.stderr, done
    done = bouquet("monitor", "--results", str(tmp_path), "--tensorboard", "x:y")
    assert done.returncode == 2 and "--tensorboard" in done.stderr, done
