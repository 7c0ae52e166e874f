"""What a contender is given and what it gives back."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.workload import TUTORIAL_MODEL


@dataclass(frozen=True, slots=True)
class Workload:
    """The work that all contenders do, on the same data."""

    folder: Path
    """Data set in the form of the hub: Parquet files with `img` and `label`."""
    store: Path
    """The same data as `bouquet prepare` writes it: the same pictures in the same partitions."""
    workspace: Path
    """Scratch directory of the whole benchmark; each measurement makes its own inside."""
    rounds: int = 5
    clients: int = 10
    fraction_evaluate: float = 0.5
    model: str = TUTORIAL_MODEL

    @property
    def evaluating_clients(self) -> int:
        """Clients that evaluate after each round."""
        return max(1, round(self.clients * self.fraction_evaluate))


@dataclass(slots=True)
class Measurement:
    """One run of one contender."""

    round_s: list[float]
    """Wall seconds of each round, training, sampled evaluation and the server's evaluation together."""
    accuracy: float
    """Of the final global model on the test split."""
    run_s: float | None = None
    """From submission to the run's end."""
    command_s: float | None = None
    """The whole command, starting and ending the processes included."""
    epochs_s: list[float] = field(default_factory=list)
    """The arithmetic only: seconds of each round's training alone."""
    note: str = ""

    @property
    def warm_s(self) -> float:
        """Median seconds of the rounds after the first (of all, when there is only one)."""
        return statistics.median(self.round_s[1:] or self.round_s)


class Contender(Protocol):
    """A way to do the work."""

    key: str
    title: str

    def missing(self, workload: Workload) -> str:
        """Why this contender cannot run here; empty when it can."""
        ...

    def measure(self, workload: Workload, scratch: Path) -> Measurement:
        """Do the work once. Raises BenchError; leaves no process behind."""
        ...
