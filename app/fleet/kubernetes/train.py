"""The run that the settings ask for, submitted from inside the SuperLink's pod.

`RUN` names it. A run of that name that has finished is not started again when the pod restarts; another
name in the settings, or `bouquet train` by hand, starts the next one.
"""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from app.errors import SUBSET, WRONG_INPUT, UserError
from app.files import PUBLIC, write_atomically
from app.fleet.deployment import KubernetesSettings
from app.fleet.identity.files import make_directory

COMMAND = ("bouquet", "train")
ATTEMPTS = 3
PAUSE_S = 20.0
FINISHED = frozenset({0, SUBSET})


def train_once(
    settings: KubernetesSettings,
    alive: Callable[[], None],
    *,
    command: tuple[str, ...] = COMMAND,
    pause_s: float = PAUSE_S,
) -> int:
    """Submit the run `RUN` unless it has finished; return its exit status and keep it for `result`.

    A run that fails is submitted again, at most three times in all. Settings that are wrong stay wrong, so
    they are not tried again. `alive` is called about once a second. Raises UserError for a RUN that is no
    name.
    """
    record = record_of(settings)
    if record.exists() and json.loads(record.read_text())["status"] in FINISHED:
        print(f"run {record.stem!r} has finished before: set another RUN for a new one", flush=True)
        return int(json.loads(record.read_text())["status"])
    make_directory(record.parent)
    status = 1
    for attempt in range(1, ATTEMPTS + 1):
        print(f"run {record.stem!r}, attempt {attempt} of {ATTEMPTS}", flush=True)
        record.unlink(missing_ok=True)
        status = _run(command, alive)
        if status in {*FINISHED, WRONG_INPUT} or attempt == ATTEMPTS:
            break
        for _ in range(int(pause_s)):
            alive()
            time.sleep(1)
    write_atomically(record, json.dumps({"status": status, "ended": time.time()}).encode(), PUBLIC)
    print(f"run {record.stem!r} ended with status {status}", flush=True)
    return status


def wait_for_result(settings: KubernetesSettings, pause_s: float = 1.0) -> int:
    """Wait until the run `RUN` has ended and return its exit status."""
    record = record_of(settings)
    while not record.exists():
        time.sleep(pause_s)
    return int(json.loads(record.read_text())["status"])


def record_of(settings: KubernetesSettings) -> Path:
    """Where the end of the run `RUN` is kept."""
    name = settings.run
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"RUN={name!r} is no name for a run: use letters, digits, - and _")
    return settings.state / "runs" / f"{name}.json"


def _run(command: tuple[str, ...], alive: Callable[[], None]) -> int:
    process = subprocess.Popen(command)
    try:
        while True:
            try:
                return process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                alive()
    finally:
        # Reached with the process still running when the pod is told to stop.
        if process.poll() is None:
            process.terminate()
            process.wait()
