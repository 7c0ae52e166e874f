"""Which model is the best, and when a run ends early."""

import math

import pytest

from app.rounds.goal import Goal
from app.settings import RunSettings


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 2), ("loss", 3), ("client-accuracy", 1)])
def test_the_best_round_by_the_metric_that_was_chosen(metric: str, best: int) -> None:
    goal = Goal(RunSettings.from_run_config({"best-by": metric}))
    for number, (loss, accuracy, clients) in enumerate(
        [(2.0, 0.5, 0.7), (1.5, 0.6, 0.6), (1.0, 0.6, None), (math.nan, 0.1, 0.1)], 1
    ):
        judged = goal.judge(number, loss, accuracy, clients)
    assert judged is not None and (judged["round"], judged["metric"]) == (best, metric)


def test_patience_counts_rounds_without_a_better_model_also_after_a_restart() -> None:
    settings = RunSettings(patience=2)
    goal = Goal(settings)
    for number, accuracy in enumerate([0.1, 0.3, 0.2], 1):
        goal.judge(number, 1.0, accuracy, None)
        assert not goal.reached(number, accuracy, None)
    goal = Goal(settings, goal.best)
    goal.judge(4, 1.0, 0.3, None)
    assert "no better accuracy for 2 rounds" in goal.reached(4, 0.3, None)


def test_a_target_ends_a_run_by_the_metric_that_was_chosen() -> None:
    assert not Goal(RunSettings(target_accuracy=0.6)).reached(1, 0.59, 0.9)
    assert "target-accuracy=0.6" in Goal(RunSettings(target_accuracy=0.6)).reached(1, 0.6, None)
    by_clients = Goal(RunSettings(target_accuracy=0.6, best_by="client-accuracy"))
    assert not by_clients.reached(1, 0.9, 0.5) and by_clients.reached(1, 0.1, 0.7)
    assert not Goal(RunSettings()).reached(99, 1.0, 1.0)
