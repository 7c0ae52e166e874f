"""ServerApp: what the server does in a run (Flower loads it)."""

import ctypes
import logging
import os
import signal
import time
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import InMemoryGrid

from app.errors import UserError
from app.learning.arrays import check_personal, state_arrays
from app.learning.batches import Examples
from app.learning.memory import keep_freed_memory
from app.learning.model import build_model
from app.learning.store import Store
from app.learning.training import choose_device, evaluate_arrays
from app.rounds.loop import Rounds
from app.rounds.results import ResultsFolder, Summary, results_root
from app.rounds.screening import read_client_names
from app.rounds.strategies import make_strategy
from app.settings import RunSettings

app = ServerApp()

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have the kernel end this process with the SuperExec that started it (Linux).

    Flower's own watch raises the signal in a thread, which a main thread that sleeps between retries
    does not notice for half a minute.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def say(line: str) -> None:
    """Print one line of progress; the SuperLink passes it on to whoever follows the run."""
    print(line, flush=True)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds and leave ``results/<run>/``."""
    end_with_parent()
    keep_freed_memory()
    # Flower's strategies log every phase; one line a round says what a person wants to know.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    try:
        settings = RunSettings.from_run_config(context.run_config)
        store = Store.open()
        manifest = store.manifest
        model = build_model(settings, manifest.shape, len(manifest.classes))
        check_personal(model, settings.personal_prefixes)
        strategy = make_strategy(settings)
    except UserError as error:
        say(f"error: {error}")
        raise
    device = choose_device()
    run = os.environ.get("BOUQUET_RUN", "") or f"{time.strftime('%Y%m%d-%H%M%S')}-{str(context.run_id)[-6:]}"
    folder = ResultsFolder(results_root(), run)
    summary = Summary(
        run=run,
        flower_run=str(context.run_id),
        mode=os.environ.get("BOUQUET_MODE", "")
        or ("simulation" if isinstance(grid, InMemoryGrid) else "flower"),
        device="cpu",
        dataset=manifest.source,
        num_clients=settings.min_available_nodes,
        rounds=0,
        settings=settings.model_dump(by_alias=True),
    )
    test = Examples(store.test, device)

    def evaluate_centrally(arrays: ArrayRecord) -> tuple[float, float]:
        exclude = settings.personal_prefixes
        return evaluate_arrays(model, arrays, test, device=device, exclude=exclude, settings=settings)

    registry = os.environ.get("BOUQUET_MEMBERS", "")
    rounds = Rounds(
        grid=grid,
        strategy=strategy,
        settings=settings,
        evaluate=evaluate_centrally,
        folder=folder,
        summary=summary,
        names=read_client_names(Path(registry) if registry else None),
        data=ConfigRecord({"shape": list(manifest.shape), "classes": list(manifest.classes)}),
        say=say,
    )
    rounds.run(state_arrays(model, settings.personal_prefixes))
    accuracy = "not evaluated" if summary.accuracy is None else f"accuracy {summary.accuracy:.4f}"
    say(f"finished: {accuracy}, results in {folder.path}")
