"""Which round has the best model, and when a run has reached what it is for."""

import math
from typing import Any

from app.settings import RunSettings


class Goal:
    """Compares the rounds of a run.

    Attributes:
        best: ``round``, ``metric`` and ``value`` of the best model so far; None before there is one.
    """

    def __init__(self, settings: RunSettings, best: dict[str, Any] | None = None) -> None:
        self._settings, self.best = settings, best

    def judge(
        self, server_round: int, loss: float, accuracy: float, client_accuracy: float | None
    ) -> dict[str, Any] | None:
        """Take a round's results; the best round so far."""
        metric = self._settings.best_by
        value = {"loss": loss, "accuracy": accuracy, "client-accuracy": client_accuracy}[metric]
        if value is not None and math.isfinite(value) and self._is_better(value):
            self.best = {"round": server_round, "metric": metric, "value": value}
        return self.best

    def reached(self, server_round: int, accuracy: float, client_accuracy: float | None) -> str:
        """Why the run ends after this round; empty where it goes on."""
        settings = self._settings
        shown = client_accuracy if settings.best_by == "client-accuracy" else accuracy
        if settings.target_accuracy and shown is not None and shown >= settings.target_accuracy:
            return f"accuracy {shown:.4f} has reached target-accuracy={settings.target_accuracy:g}"
        since = server_round - (self.best["round"] if self.best else 0)
        if settings.patience and since >= settings.patience:
            return f"no better {settings.best_by} for {since} rounds (patience)"
        return ""

    def _is_better(self, value: float) -> bool:
        if self.best is None:
            return True
        before = float(self.best["value"])
        return value < before if self._settings.best_by == "loss" else value > before
