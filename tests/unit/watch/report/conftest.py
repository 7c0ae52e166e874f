"""Events as a run writes them, for runs that nobody has to run."""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.settings import RunSettings

BEGAN = datetime(2026, 11, 30, 10, tzinfo=UTC)
Record = dict[str, Any]


def client(number: int, name: str = "") -> Record:
    return {"node_id": 1000 + number, "partition_id": number, "name": name}


class Told:
    """The events of a made-up run, one second apart."""

    def __init__(self, clients: Iterable[Record], **settings: Any) -> None:
        self.clients, self.records, self._now = list(clients), [], BEGAN
        self.settings = RunSettings(**settings).to_run_config()

    records: list[Record]

    def tell(self, event: str, **fields: Any) -> "Told":
        self._now += timedelta(seconds=1)
        self.records.append(
            {"event": event, "time": self._now.isoformat(), "run": "r", "schema": 1, **fields}
        )
        return self

    def start(self, **more: Any) -> "Told":
        known: Record = {
            "flower_run": "7", "mode": "local", "dataset": "digits", "checksum": "c" * 64, "shape": [3, 32, 32],
            "classes": ["cat", "dog"], "settings": self.settings, "versions": {"bouquet": "0.1.0"},
        }  # fmt: skip
        self.tell("run_started", **(known | more))
        return self.tell("clients_connected", clients=self.clients)

    def ask(self, number: int, phase: str = "train") -> "Told":
        return self.tell("phase_started", round=number, phase=phase, clients=self.clients)

    def reply(self, number: int, who: Record, phase: str = "train", **more: Any) -> "Told":
        known: Record = {
            "num_examples": 80, "loss": 1.5, "accuracy": 0.5, "seconds": 1.0, "bytes_down": 1000, "bytes_up": 900,
            "device": "cpu", "update_length": 2.0, "sha256": "ab" * 32,
        }  # fmt: skip
        return self.tell("reply_accepted", round=number, phase=phase, client=who, **(known | more))

    def finish(self, number: int, **more: Any) -> "Told":
        known: Record = {
            "rounds": 9, "seconds": 2.0, "loss": 1.0 / number, "accuracy": 0.1 * number, "train_loss": 1.5,
            "client_accuracy": 0.5, "trained": len(self.clients), "evaluated": 1, "traffic": [5000, 4000],
            "privacy": None, "best": {"round": number, "metric": "accuracy", "value": 0.1 * number},
        }  # fmt: skip
        return self.tell("round_finished", round=number, **(known | more))

    def round(self, number: int, **more: Any) -> "Told":
        """A round in which all goes well."""
        self.ask(number)
        for who in self.clients:
            self.reply(number, who)
        self.ask(number, "evaluate")
        for who in self.clients:
            self.reply(number, who, "evaluate", update_length=None)
        return self.finish(number, **more)

    def end(self, status: str = "completed", **more: Any) -> "Told":
        said = {"participation": "all clients took part", "reason": "", "rounds": 1, "seconds": 9.0}
        return self.tell("run_finished", status=status, loss=1.0, accuracy=0.1, **(said | more))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the events of a run into a folder of the results."""

    def written(told: Told, name: str = "a-run") -> Path:
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        lines = "".join(f"{json.dumps(record)}\n" for record in told.records)
        (folder / "events.jsonl").write_text(f'{lines}{{"event": "cut sho')
        return folder

    return written
