"""Runs in a real MLflow server: parameters, metrics by step, files; a run that goes on, and a server that does not answer."""

import csv
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from container_engine import cannot_run
from federation_processes import bouquet, leftovers, until
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow.version import VERSION

from app.fleet.host.ports import free_port
from app.rounds import events
from app.rounds.results import EventLog
from app.watch.monitor.follow import Runs
from app.watch.monitor.mlflow import Tracking
from app.watch.monitor.watching import Watching

pytestmark = pytest.mark.federation
# What a server needs beside the packages that are here already.
PACKAGES = (f"mlflow=={VERSION}", "flask", "blinker", "itsdangerous", "flask-cors", "graphene", "graphql-core",
            "graphql-relay", "huey", "aiohttp")  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server; it is not in the lock files, and goes to a folder of its own."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    uv = Path(sys.executable).parent / "uv"
    installed = subprocess.run(
        [uv, "pip", "install", "--quiet", "--no-deps", "--target", folder / "packages", *PACKAGES],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if installed.returncode:
        cannot_run(f"MLflow's server cannot be installed: {installed.stderr[-300:]}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{folder}/store.db", "--artifacts-destination", str(folder / "files"),
            ],
            env={**os.environ, "PYTHONPATH": str(folder / "packages"), "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    try:
        until(answers, 120, lambda: (folder / "log").read_text())
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
        until(lambda: not leftovers(str(folder)), 30, lambda: "MLflow's server stays")


def runs(server: str, experiment: str) -> list[Run]:
    client = MlflowClient(tracking_uri=server)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def points(server: str, run: Run, name: str) -> dict[int, float]:
    history = MlflowClient(tracking_uri=server).get_metric_history(run.info.run_id, name)
    assert len({each.step for each in history}) == len(history), "no point comes twice"
    return {each.step: each.value for each in history}


def test_a_run_of_up_is_a_run_of_mlflow(server: str, tmp_path: Path) -> None:
    done = bouquet(
        "up", "--dataset", "digits", "--clients", "2", "--rounds", "2", "--results", str(tmp_path),
        "--config", "fraction-evaluate=1.0", environment={"MLFLOW_TRACKING_URI": server},
    )  # fmt: skip
    assert done.returncode == 0 and "warning" not in done.stdout, done.stdout + done.stderr
    folder = (tmp_path / "latest").resolve()
    [run] = runs(server, "bouquet")
    assert (run.info.run_name, run.info.status) == (folder.name, "FINISHED")
    assert run.data.params["num-server-rounds"] == "2" and run.data.params["dataset"] == "digits"
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, phase, column in (
        ("accuracy/server", "server", "accuracy"),
        ("loss/server", "server", "loss"),
        ("clients/train loss/partition 1", "train", "loss"),
        ("clients/evaluate accuracy/partition 1", "evaluate", "accuracy"),
    ):
        told = {
            int(row["round"]): float(row[column])
            for row in rows
            if row["phase"] == phase and (phase == "server" or row["partition_id"] == "1")
        }
        assert len(told) == 2 and points(server, run, name) == pytest.approx(told, rel=1e-5), name
    client = MlflowClient(tracking_uri=server)
    files = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert {"model", "summary.json", "history.csv", "events.jsonl"} <= files
    fetched = client.download_artifacts(run.info.run_id, "model/model.safetensors", str(tmp_path))
    assert Path(fetched).read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_run_that_goes_on_goes_on_in_the_same_run(server: str, tmp_path: Path) -> None:
    log = tmp_path / "results" / "one"
    log.mkdir(parents=True)

    def told(*happened: events.Event) -> Run:
        for event in happened:
            stamp = {"event": event.name(), "time": "2026-11-30T12:00:00+00:00"}
            EventLog(log).take(event, stamp | asdict(event))
        for _ in range(2):  # telling again tells nothing new
            shows = Tracking(server, "goes on")
            assert Watching("MLflow", shows, Runs(tmp_path / "results"), print).look()
        [run] = runs(server, "goes on")
        return run

    def finished(number: int) -> events.RoundFinished:
        numbers: dict[str, Any] = dict.fromkeys(events.RoundFinished.__dataclass_fields__)
        return events.RoundFinished(
            **numbers | {"round": number, "rounds": 3, "seconds": 1.0, "loss": 1 / number}
        )

    started = events.RunStarted("7", "up", "digits", "", [1], ["a"], {"seed": 42}, {"flwr": "1.39"})
    first = told(started, finished(1), events.RunFinished("interrupted", 1, 1.0))
    assert first.info.status == "KILLED"
    again = told(events.RunResumed(1, "c", []), finished(2), events.RunFinished("subset", 2, 1.0))
    assert (again.info.run_id, again.info.status) == (first.info.run_id, "FINISHED")
    assert points(server, again, "loss/server") == {1: 1.0, 2: 0.5}
    assert again.data.tags["bouquet.status"] == "subset" and again.data.params["version.flwr"] == "1.39"


def test_a_server_that_does_not_answer_costs_a_line(tmp_path: Path) -> None:
    port = free_port()
    nowhere, shown = f"http://me:secret@127.0.0.1:{port}", f"http://127.0.0.1:{port}"
    done = bouquet(
        "up", "--dataset", "digits", "--clients", "2", "--rounds", "1", "--results", str(tmp_path), "--mlflow", nowhere,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [warning] = [line for line in done.stdout.splitlines() if "warning" in line]
    assert warning.startswith(f"warning: MLflow at {shown} does not take what runs tell: ")
    assert "secret" not in done.stdout + done.stderr
    summary = json.loads((tmp_path / "latest" / "summary.json").read_text())
    assert summary["status"] == "completed"
