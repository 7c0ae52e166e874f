"""ServerApp: what the server does in a run (Flower loads it)."""

import json
import logging
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.differential_privacy import KEY_NORM_BIT
from flwr.superlink.grid import InMemoryGrid
from torch import nn

from app.environment import DRAIN, AppEnvironment, read
from app.errors import (
    DRAINED,
    EVALUATION_LINE,
    FAILED,
    STATUS_LINE,
    SUBSET,
    WRONG_INPUT,
    Drained,
    RunStopped,
    UserError,
)
from app.learning.batches import Examples
from app.learning.client import EVALUATE_METRICS, TRAIN_METRICS
from app.learning.data.store import Manifest, Store
from app.learning.model import build_model
from app.learning.training import choose_device, evaluate_arrays
from app.learning.weights import check_personal, state_arrays
from app.process import end_with_parent, interruptible, keep_freed_memory
from app.rounds import events
from app.rounds.console import Console
from app.rounds.loop import Evaluate, Rounds
from app.rounds.results import (
    EventLog,
    History,
    ResultsFolder,
    Summary,
    SummaryFile,
    finite,
    model_bytes,
    read_events,
)
from app.rounds.screening import NUM_EXAMPLES, Known, read_bounds, read_client_names
from app.rounds.state import resume
from app.rounds.state.checkpoints import Checkpoints
from app.rounds.state.run import Experiment, RunState
from app.rounds.strategies import make_strategy
from app.settings import RunSettings

app = ServerApp()


@dataclass
class Job:
    """A run that is ready to begin or to go on, and what tells of it."""

    rounds: Rounds
    stream: events.Stream
    summary: SummaryFile
    folder: ResultsFolder


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds and leave ``results/<run>/``."""
    # Flower watches its SuperExec too, but in a thread that a main thread asleep between retries notices late.
    end_with_parent()
    keep_freed_memory()
    # Flower's strategies log every phase; one line a round says what a person wants to know.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    try:
        if _has_ended(context):
            return
        job = _prepare(grid, context)
    except Drained as error:
        _say(error, DRAINED)
        raise
    except UserError as error:
        _say(error, WRONG_INPUT)
        raise
    try:
        with interruptible():
            _run(job)
    except UserError as error:
        _say(error, DRAINED if isinstance(error, Drained) else FAILED)
        raise


def _has_ended(context: Context) -> bool:
    """Whether the server was lost when this submission's run had just ended; then what it came to is said again."""
    begun = resume.of_submission(read(AppEnvironment).results, str(context.run_config.get("submission", "")))
    if begun is None or begun[1]["status"] not in resume.ENDED:
        return False
    folder, summary = begun
    print(f"finished before the server was lost: {summary['participation']}; results in {folder}", flush=True)
    if summary["status"] == "subset":
        print(f"{STATUS_LINE}{SUBSET}", flush=True)
    return True


def _prepare(grid: Grid, context: Context) -> Job:
    """Check everything, and find the run that goes on. Raises UserError for what cannot be run."""
    found = read(AppEnvironment)
    _make_room(found.results)
    settings = RunSettings.from_run_config(context.run_config)
    # As `bouquet evaluate` names a model of a run.
    if settings.weights and not Path(settings.weights).exists():
        settings = settings.model_copy(update={"weights": str(found.results / settings.weights)})
    if settings.task == "evaluate":
        everyone = {"fraction_evaluate": 1.0, "min_evaluate_nodes": settings.min_available_nodes}
        settings = settings.model_copy(update=everyone)
    store = Store.open()
    manifest = store.manifest
    model = build_model(settings, manifest.shape, len(manifest.classes))
    check_personal(model, settings.personal_prefixes)
    experiment = Experiment(settings.to_run_config(), grid.run.fab_hash, manifest.checksum)
    name = found.run or f"{time.strftime('%Y%m%d-%H%M%S')}-{str(context.run_id)[-6:]}"
    state = RunState(
        0,
        state_arrays(model, settings.personal_prefixes),
        make_strategy(settings),
        Summary(run=name),
        experiment=experiment,
    )
    asked = settings.resume if settings.task == "train" else resume.NEVER
    continued = resume.find(asked, found.results, found.run, experiment)
    if continued is not None:
        name = continued.folder.name
        state = RunState.load(continued.checkpoint, state.strategy)
        state.experiment = experiment
        state.count_repeated(read_events(continued.folder / "events.jsonl"))
    results = continued.folder.parent if continued else found.results
    folder = ResultsFolder(results, name, is_latest=settings.task == "train")
    if continued is None:
        resume.lock(folder.path)
    else:
        folder.forget_after(state.round)
        Checkpoints(folder.path).forget_after(state.round)
    summary = SummaryFile(folder.path, state.summary)
    stream = events.Stream(
        name, [EventLog(folder.path), History(folder.path), summary, Console(str(folder.path))]
    )
    rounds = Rounds(
        grid=grid,
        settings=settings,
        state=state,
        evaluate=_central_evaluation(store, model, settings),
        emit=stream.emit,
        names=lambda: read_client_names(found.members),
        known=lambda phase: _known(phase, settings, manifest, found),
        data=_compared(manifest),
        after_round=lambda state: _keep(state, folder, settings.keep_checkpoints, stream),
        between_rounds=lambda: _make_room(found.results),
    )
    stream.emit(_started(grid, context, found, settings, store))
    if continued is not None:
        stream.emit(events.RunResumed(state.round, str(continued.checkpoint), continued.damaged))
    elif asked == resume.AUTO and (other := resume.passed_over(found.results, experiment)) is not None:
        stream.emit(events.RunPassedOver(str(other[0]), other[1]))
    return Job(rounds, stream, summary, folder)


def _compared(of: Manifest) -> ConfigRecord:
    return ConfigRecord({"shape": list(of.shape), "classes": of.classes, "division": of.division})


def _started(
    grid: Grid, context: Context, found: AppEnvironment, settings: RunSettings, store: Store
) -> events.RunStarted:
    manifest = store.manifest
    return events.RunStarted(
        flower_run=str(context.run_id),
        mode=found.mode or ("simulation" if isinstance(grid, InMemoryGrid) else "flower"),
        dataset=manifest.source,
        checksum=manifest.checksum,
        shape=list(manifest.shape),
        classes=list(manifest.classes),
        settings=settings.model_dump(by_alias=True),
        versions={name: version(name) for name in ("bouquet", "flwr", "torch") if _installed(name)},
    )


def _central_evaluation(store: Store, model: nn.Module, settings: RunSettings) -> Evaluate:
    """Loss and accuracy of a model on the server's test split."""
    device = choose_device()
    test = Examples(store.test, device)

    def evaluate(arrays: ArrayRecord) -> tuple[float, float]:
        exclude = settings.personal_prefixes
        return evaluate_arrays(model, arrays, test, device=device, exclude=exclude, settings=settings)

    return evaluate


def _keep(state: RunState, folder: ResultsFolder, count: int, stream: events.Stream) -> None:
    """Leave the models and the checkpoint of a round."""
    is_best = state.summary.best is not None and state.summary.best["round"] == state.round
    model = model_bytes(state.arrays)
    stream.guard("model", lambda: folder.write_model(model, is_best=is_best))
    checkpoints = Checkpoints(folder.path, count)
    stream.guard("checkpoint", lambda: stream.emit(checkpoints.save(state, model)))


def _run(job: Job) -> None:
    """Run the rounds and say how they ended. Raises UserError where the run or its results are not whole."""
    begun, rounds, summary = time.monotonic(), job.rounds, job.rounds.state.summary

    def ended(status: str, reason: str) -> None:
        job.stream.emit(
            events.RunFinished(
                status,
                rounds.state.round,
                time.monotonic() - begun,
                summary.loss,
                summary.accuracy,
                reason,
                job.summary.participation.sentence(),
            )
        )

    try:
        reason = rounds.run() if rounds.settings.task == "train" else rounds.evaluate_model()
    except BaseException as error:
        stopped = isinstance(error, SystemExit | KeyboardInterrupt | Drained)
        cause = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt):
            cause = "it was stopped by a signal"
        ended("interrupted" if stopped else "failed", cause)
        raise
    complete = job.summary.participation.is_complete
    if not job.stream.failing:
        ended("completed" if complete else "subset", reason)
    if job.stream.failing:
        mistake = (
            f"results in {job.folder.path} could not be written: {'; '.join(job.stream.failing.values())}"
        )
        ended("failed", mistake)
        raise RunStopped(f"{mistake}; make space and run again")
    if summary.evaluation:
        print(EVALUATION_LINE + json.dumps(finite(_evaluation(summary, rounds.settings.weights))), flush=True)
    if not complete:
        print(f"{STATUS_LINE}{SUBSET}", flush=True)


def _evaluation(summary: Summary, model: str) -> dict[str, Any]:
    """What ``bouquet evaluate --json`` prints."""
    server = {"loss": summary.loss, "accuracy": summary.accuracy}
    shown = {"participation": summary.participation, "model": model, "server": server}
    return {"schema_version": 1, **shown, "clients": summary.evaluation}


def _make_room(results: Path) -> None:
    """Raise Drained where `bouquet drain` has asked for it."""
    if (results / DRAIN).exists():
        raise Drained(
            "this server is being drained: the run goes on from its checkpoint when the server has been started again"
        )


def _say(error: UserError, status: int) -> None:
    print(f"{STATUS_LINE}{status}\nerror: {error}", flush=True)


def _known(phase: str, settings: RunSettings, manifest: Manifest, found: AppEnvironment) -> Known:
    """What replies the clients of this app, with this data, can send."""
    names = {NUM_EXAMPLES, *(TRAIN_METRICS if phase == "train" else EVALUATE_METRICS)}
    if phase == "train" and settings.privacy == "central-adaptive" and settings.clipping_side == "client":
        names.add(KEY_NORM_BIT)
    parts = [] if manifest.partitioner == "none" else manifest.counts
    largest = max((part.train if phase == "train" else part.val for part in parts), default=0)
    return Known(frozenset(names), read_bounds(found.members), largest)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
