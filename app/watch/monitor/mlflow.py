"""The runs of a results folder in MLflow: parameters, metrics by step, and at the end the model and the other files.

A run of Bouquet is one run of MLflow, found by its tag ``bouquet.run``, so one that goes on after it was cut off goes on there
too. The tag ``bouquet.events`` says how many events are in it, so nothing is told twice.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from requests.exceptions import RequestException

from app.watch.monitor.scalars import MOST_CLIENTS, points
from app.watch.runs import Record

RUN, EVENTS = "bouquet.run", "bouquet.events"
STATES = {"completed": "FINISHED", "subset": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
MODELS = ("model.safetensors", "model-best.safetensors")
FILES = ("summary.json", "history.csv", "events.jsonl", "report.html", "report.json", "log.txt")
MOST_METRICS, MOST_PARAMS, LONGEST_VALUE = 1000, 100, 500  # MLflow's own limits, of a batch and of a value


class Tracking:
    """Sends runs to an MLflow server.

    Args:
        uri: of the server.
        experiment: takes the runs; it is made where there is none.
    """

    errors: tuple[type[Exception], ...] = (MlflowException, RequestException, OSError)

    def __init__(self, uri: str, experiment: str) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment, self._experiment_id = experiment, ""
        self._runs: dict[str, tuple[str, int]] = {}  # id at MLflow, and how many events it has
        self._told: dict[str, int] = {}  # how many events the file has, of those that were handed over
        self._clients: dict[str, set[str]] = {}

    def take(self, folder: Path, records: Sequence[Record]) -> None:
        """Send what a run has told since the last time. Raises one of ``errors``, and can be called again with the same."""
        run = folder.name
        before = self._told.get(run, 0)
        run_id, have = self._find(run, records)
        fresh = records[max(0, have - before) :]
        if fresh:
            self._send(run, run_id, fresh)
            self._end(folder, run_id, fresh)
            have = before + len(records)
            self._client.set_tag(run_id, EVENTS, str(have))
        self._runs[run], self._told[run] = (run_id, have), before + len(records)

    def _find(self, run: str, records: Sequence[Record]) -> tuple[str, int]:
        if run in self._runs:
            return self._runs[run]
        if not self._experiment_id:
            found = self._client.get_experiment_by_name(self._experiment)
            self._experiment_id = (
                found.experiment_id if found else self._client.create_experiment(self._experiment)
            )
        quoted = run.replace("'", "")
        known = self._client.search_runs([self._experiment_id], f"tags.`{RUN}` = '{quoted}'", max_results=1)
        if known:
            return known[0].info.run_id, int(known[0].data.tags.get(EVENTS, 0))
        begun = next((_milliseconds(record) for record in records), None)
        made = self._client.create_run(
            self._experiment_id, start_time=begun, tags={RUN: quoted}, run_name=run
        )
        return made.info.run_id, 0

    def _send(self, run: str, run_id: str, records: Sequence[Record]) -> None:
        metrics, params = list[Metric](), list[Param]()
        for record in records:
            with suppress(KeyError, TypeError, ValueError, AttributeError):  # a record of another form
                if record["event"] == "run_started":
                    params += _params(record)
                elif record["event"] == "run_resumed":
                    self._client.update_run(run_id, status="RUNNING")
                metrics += self._metrics(run, record)
        for batch in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run_id, params=params[batch : batch + MOST_PARAMS])
        for batch in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(run_id, metrics=metrics[batch : batch + MOST_METRICS])

    def _metrics(self, run: str, record: Record) -> Iterator[Metric]:
        clients = self._clients.setdefault(run, set())
        for point in points(record):
            if point.client and point.client not in clients:
                if len(clients) >= MOST_CLIENTS:
                    continue
                clients.add(point.client)
            name = f"{point.tag}/{point.client}" if point.client else point.tag
            yield Metric(_allowed(name), point.value, _milliseconds(record), point.step)

    def _end(self, folder: Path, run_id: str, records: Sequence[Record]) -> None:
        """Where a run has ended: its files, and how it did."""
        last = next((each for each in reversed(records) if each.get("event") == "run_finished"), None)
        if last is None:
            return
        for names, place in ((MODELS, "model"), (FILES, None)):
            for name in names:
                if (folder / name).is_file():
                    self._client.log_artifact(run_id, str(folder / name), place)
        if (folder / "artefacts").is_dir():
            self._client.log_artifacts(run_id, str(folder / "artefacts"), "artefacts")
        tags = [RunTag(f"bouquet.{name}", str(last.get(name, ""))) for name in ("status", "participation")]
        self._client.log_batch(run_id, tags=tags)
        state = STATES.get(str(last.get("status")), "FINISHED")
        self._client.set_terminated(run_id, state, _milliseconds(last))


def _params(record: Record) -> list[Param]:
    told: dict[str, Any] = {name: record.get(name) for name in ("mode", "dataset", "checksum", "flower_run")}
    told |= {f"version.{name}": value for name, value in dict(record.get("versions") or {}).items()}
    told |= dict(record.get("settings") or {})
    return [Param(_allowed(str(name)), str(value)[:LONGEST_VALUE]) for name, value in told.items()]


def _allowed(name: str) -> str:
    """MLflow's names have these characters."""
    return re.sub(r"[^A-Za-z0-9_.\-/ :]", "_", name)[:250]


def _milliseconds(record: Record) -> int:
    return int(datetime.fromisoformat(record["time"]).timestamp() * 1000)
