"""The live view fits its terminal, and shows what matters first."""

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from app.watch.live.picture import natural, picture, sparkline
from app.watch.live.state import ClientView, Doing, RunView

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def run_with(clients: int) -> RunView:
    run = RunView("r", "local", rounds=10, done=3, phase="train", begun=NOW - timedelta(seconds=90))
    run.latest, run.round_begun, run.seconds = NOW, NOW, [10.0]
    run.accuracies, run.loss = [0.1, None, 0.3], 1.25
    run.clients = {
        f"site-{number}": ClientView(Doing.DONE, NOW, 30, 1.5, 0.5, 2.0) for number in range(clients)
    }
    run.asked = set(run.clients)
    return run


def lines(run: RunView, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(picture(run, NOW, width, height))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (40, 12), (80, 5)])
@pytest.mark.parametrize("clients", [0, 1, 10, 500])
def test_it_fits_the_terminal(width: int, height: int, clients: int) -> None:
    run = run_with(clients)
    run.clients["x" * 300] = ClientView(Doing.LATE, reason="y" * 1000, failures=10**9)
    shown = lines(run, width, height)
    assert max(map(len, shown)) == width
    assert len(shown) <= max(height, 10)


def test_it_says_the_round_the_time_the_model_and_the_clients() -> None:
    shown = " ".join("\n".join(lines(run_with(3), 80, 24)).split())
    for words in (
        "run r local", "round 3 of 10", "1:30 gone, about 1:10 left", "round 4: train, 3 of 3 replied",
        "accuracy 0.3000", "loss 1.2500", "site-2 done",
    ):  # fmt: skip
        assert words in shown


def test_with_many_clients_those_in_trouble_come_first_and_the_others_are_counted() -> None:
    run = run_with(100)
    run.clients["site-70"].doing, run.clients["site-71"].doing = Doing.LATE, Doing.LOST
    run.clients["site-9"].doing = Doing.TRAINING
    shown = lines(run, 80, 15)
    named = [line.split()[1] for line in shown if "site-" in line]
    assert named[:3] == ["site-71", "site-70", "site-9"]
    assert "and 95 more" in "\n".join(shown) and "95 done" in "\n".join(shown)


def test_silence_and_the_end_are_said() -> None:
    run = run_with(1)
    run.latest = NOW - timedelta(seconds=40)
    assert "nothing new for 0:40" in "\n".join(lines(run, 80, 24))
    run.status, run.reason = "failed", "no disk"
    assert "failed: no disk" in "\n".join(lines(run, 80, 24))


def test_what_a_client_says_is_text_and_no_markup() -> None:
    run = run_with(0)
    run.clients["[red]x[/red]"] = ClientView(reason="[bold]")
    assert "[red]x[/red]" in "\n".join(lines(run, 120, 24))


def test_numbers_in_names_sort_as_numbers() -> None:
    assert sorted(["s-10", "s-9", "a", "10", "9", ""], key=natural) == ["", "9", "10", "a", "s-9", "s-10"]


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert (
        sparkline([0.0, 0.5, 1.0], 10) == "▁▅█" and sparkline([1.0], 10) == "" and sparkline([1, 2], 0) == ""
    )
    assert sparkline([3.0, 3.0], 5) == "▁▁" and len(sparkline([float(n) for n in range(99)], 7)) == 7
