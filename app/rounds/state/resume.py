"""Which run goes on: ``resume`` is ``auto``, ``never``, or the folder of a run or of one of its checkpoints.

``auto`` continues the newest run in the results folder that has not finished and is the same experiment: the same app,
data and settings. It never mixes two. A folder that is named must be the same experiment too, but for the settings in
``MAY_CHANGE``; what else differs is named, and the run refused.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.rounds.state.checkpoints import FOLDER, Checkpoints
from app.rounds.state.run import Experiment, read_experiment, told_experiment

AUTO, NEVER = "auto", "never"
# They say how long is waited, and when the run ends; no round comes out otherwise.
WAITING = frozenset(
    {"resume", "keep-checkpoints", "min-replies", "round-deadline", "grace", "strict", "round-retries"}
    | {"wait-for-clients", "patience", "target-accuracy", "submission"}
)
MAY_CHANGE = WAITING | {"num-server-rounds"}
ENDED = frozenset({"completed", "subset"})
_held: set[Path] = set()
LOCK_WAIT_S = 20.0  # a ServerApp outlives its SuperLink by a moment


@dataclass(frozen=True)
class Continued:
    """A run that goes on.

    Attributes:
        folder: the run's folder.
        checkpoint: the folder of the state to go on from.
        damaged: what is wrong with newer checkpoints.
    """

    folder: Path
    checkpoint: Path
    damaged: list[str]


def differences(before: Experiment, now: Experiment, may_change: frozenset[str] = MAY_CHANGE) -> list[str]:
    """What makes ``now`` another experiment, in words."""
    found = [
        f"{key} is {now.settings.get(key)!r}, was {before.settings.get(key)!r}"
        for key in sorted(before.settings.keys() | now.settings.keys())
        if key not in may_change and before.settings.get(key) != now.settings.get(key)
    ]
    if now.settings.get("lr-schedule") == "cosine" and "num-server-rounds" in may_change:
        found += differences(before, now, frozenset(now.settings) - {"num-server-rounds"})
    for what, one, other in (("the app's hash", before.app, now.app), ("the data", before.data, now.data)):
        if one != other:
            found.append(f"{what} is {other[:12] or 'unknown'}, was {one[:12] or 'unknown'}")
    return list(dict.fromkeys(found))


def of_submission(results: Path, submission: str) -> tuple[Path, dict[str, Any]] | None:
    """The run, and its summary, that a submission had begun before it was cut off; None where it had begun none."""
    for folder in _newest_first(results) if submission else ():
        summary = _summary(folder)
        if summary.get("settings", {}).get("submission") == submission:
            return folder, summary
    return None


def find(resume: str, results: Path, run: str, experiment: Experiment) -> Continued | None:
    """The run to go on with; None for a new one.

    A submission that was cut off goes on with the run that it had begun, whatever ``resume`` says.

    Args:
        resume: the setting.
        results: folder of all results.
        run: the name that the run must have; empty for any.
        experiment: what is to be run now.

    Raises:
        UserError: the folder that is named holds no run, another experiment, or one that is running.
    """
    if begun := of_submission(results, str(experiment.settings.get("submission", ""))):
        resume = str(begun[0])
    if resume not in (AUTO, NEVER):
        return _named(resume, results, experiment)
    if resume == AUTO:
        for folder in [results / run] if run else _newest_first(results):
            if (found := _same(folder, experiment)) is not None:
                return found
    if run and (results / run).is_dir() and any((results / run).iterdir()):
        told = _told(results / run)
        other = "; ".join(differences(told, experiment, WAITING)) if told is not None else ""
        raise UserError(
            f"BOUQUET_RUN={run}: {results / run} holds another run{f' ({other})' if other else ''}, or one that has ended; "
            "give another name"
        )
    return None


def passed_over(results: Path, experiment: Experiment) -> tuple[Path, list[str]] | None:
    """The newest run that has not ended, where another app began it, and what forbids to go on with it."""
    for folder in _newest_first(results):
        if (told := _told(folder)) is not None and not _ended(folder):
            return (folder, differences(told, experiment, WAITING)) if told.app != experiment.app else None
    return None


def unended(results: Path, experiment: Experiment) -> Iterator[Path]:
    """The newest whole checkpoint of each run that is the same experiment, has not ended and is held now."""
    for folder in _newest_first(results):
        if (found := _same(folder, experiment)) is not None:
            yield found.checkpoint


def lock(folder: Path, wait_s: float = 0.0) -> bool:
    """Hold the run's folder until this process ends; False where another process holds it still after ``wait_s``."""
    if folder in _held:
        return True
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _held.add(folder)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return False
            time.sleep(0.2)
        except OSError:  # a file system without locks
            return True


def _same(folder: Path, experiment: Experiment) -> Continued | None:
    """The run in ``folder``, held, if it has not ended and is the same experiment."""
    checkpoints, told = Checkpoints(folder), _told(folder)
    if told is None or _ended(folder) or differences(told, experiment, WAITING):
        return None
    if checkpoints.newest_whole()[0] is None or not lock(folder, LOCK_WAIT_S):
        return None
    # Whoever held it has perhaps written one more, or ended.
    checkpoint, damaged = checkpoints.newest_whole()
    if checkpoint is None or _ended(folder):
        return None
    other = differences(read_experiment(checkpoint), experiment, WAITING)
    return None if other else Continued(folder, checkpoint, damaged)


def _named(resume: str, results: Path, experiment: Experiment) -> Continued:
    path = next((each for each in (Path(resume), results / resume) if each.is_dir()), None)
    if path is None:
        raise UserError(
            f"resume={resume!r}: there is no such folder, here or in {results}; give a run's folder"
        )
    path = path.resolve()
    of_round = path.parent.name == FOLDER
    folder, damaged = (path.parent.parent if of_round else path), list[str]()
    checkpoint: Path | None = path
    if not of_round:
        checkpoint, damaged = Checkpoints(folder).newest_whole()
    if checkpoint is None:
        reasons = f": {'; '.join(damaged)}" if damaged else ""
        raise UserError(f"resume={resume!r}: {folder} has no whole checkpoint{reasons}; give another run")
    if other := differences(read_experiment(checkpoint), experiment):
        raise UserError(
            f"resume={resume!r}: this is another experiment: {'; '.join(other)}; "
            "give the same settings, or resume='never' for a new run"
        )
    if not lock(folder, LOCK_WAIT_S):
        raise UserError(f"resume={resume!r}: another process runs it; wait for it, or stop it")
    return Continued(folder, checkpoint, damaged)


def _told(folder: Path) -> Experiment | None:
    """What the run in ``folder`` says that it is made from; the models of other experiments are not read."""
    checkpoints = Checkpoints(folder)
    said = (told_experiment(checkpoints.path(number)) for number in checkpoints.rounds())
    return next((each for each in said if each is not None), None)


def _newest_first(results: Path) -> Iterator[Path]:
    runs = [each.parent for each in results.glob(f"*/{FOLDER}") if not each.parent.is_symlink()]
    return iter(sorted(runs, key=lambda each: (each / FOLDER).stat().st_mtime, reverse=True))


def _ended(folder: Path) -> bool:
    return _summary(folder).get("status") in ENDED


def _summary(folder: Path) -> dict[str, Any]:
    """A run's summary; empty where there is none that can be read."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}
