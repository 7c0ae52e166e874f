"""The command for what other programs show of runs: TensorBoard, and MLflow."""

import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from app.cli.options import add_command, echo
from app.environment import set_variables, with_variables
from app.errors import UserError
from app.fleet.deployment import NO_PAGE, MonitorSettings, UpSettings
from app.process import end_with_parent

if TYPE_CHECKING:
    from app.watch.monitor.watching import Watching

PATIENCE_S = 120.0  # for the files of a run that has just ended


def monitor(settings: MonitorSettings) -> None:
    """Show the runs of a results folder in TensorBoard and MLflow, those that are over and those under way."""
    from app.watch.monitor.page import page

    if not settings.results.is_dir() and not settings.only_new:
        raise UserError(f"{settings.results} is no folder: give the results of runs with --results")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as ends:
        logs = settings.logs
        if logs is None:
            logs = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="bouquet-monitor-")))
        watchings = list(_watchings(settings, logs))
        if settings.once:
            taken = [watching.look() for watching in watchings]
            if not all(taken):
                raise typer.Exit(1)
            return
        for watching in watchings:
            ends.callback(watching.stop, PATIENCE_S)
            watching.start()
        if settings.tensorboard != NO_PAGE:
            where = ends.enter_context(page(logs, settings.tensorboard))
            echo(f"TensorBoard shows {settings.results} at {where}")
        if settings.mlflow:
            echo(
                f"MLflow at {without_password(settings.mlflow)} gets the runs, as the experiment {settings.experiment}"
            )
        threading.Event().wait()


def _watchings(settings: MonitorSettings, logs: Path) -> "Iterator[Watching]":
    """Those that follow the runs. Raises UserError for what is not installed."""
    from app.watch.monitor.follow import Runs
    from app.watch.monitor.watching import Watching

    since = time.time() if settings.only_new else 0.0
    if settings.tensorboard != NO_PAGE or settings.logs is not None:
        require("tensorboard", "TensorBoard", "monitor")
        from app.watch.monitor.tensorboard import EventFiles

        yield Watching("TensorBoard's folder", EventFiles(logs), Runs(settings.results, since), echo)
    if settings.mlflow:
        require("mlflow", "MLflow", "mlflow")
        # A server that does not answer is tried again later; MLflow would wait for minutes. It would also report its use.
        own = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
        set_variables(own, {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"})
        from app.watch.monitor.mlflow import Tracking

        where = without_password(settings.mlflow)
        try:
            tracking = Tracking(settings.mlflow, settings.experiment)
        except Tracking.errors as error:
            reason = without_password(" ".join(str(error).split())[:300])
            raise UserError(f"--mlflow (MLFLOW_TRACKING_URI): {where} cannot be used: {reason}") from None

        def warn(line: str) -> None:
            echo(without_password(line))

        yield Watching(f"MLflow at {where}", tracking, Runs(settings.results, since), warn)


def without_password(text: str) -> str:
    """Text as it can be shown, when it holds the address of a server."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def require(module: str, name: str, extra: str) -> None:
    """Raise UserError where a package is not installed."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise UserError(f"{name} is not installed: pip install 'bouquet[{extra}]'")


@contextmanager
def beside(settings: UpSettings, say: Callable[[str], None]) -> Iterator[None]:
    """`bouquet monitor` over the runs of the body, where the settings want it. It ends when it has told how they ended."""
    if not settings.monitor and not settings.mlflow:
        yield
        return
    from app.watch.monitor.page import end

    if settings.monitor:
        require("tensorboard", "TensorBoard", "monitor")
    if settings.mlflow:
        require("mlflow", "MLflow", "mlflow")
    command = [
        sys.executable, "-m", "app.cli", "monitor", "--only-new", "--results", str(settings.results),
        "--tensorboard", settings.tensorboard if settings.monitor else NO_PAGE,
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        # Not on the command line, which others can read: the address of a server may hold a password.
        env=with_variables(
            {"MLFLOW_TRACKING_URI": settings.mlflow, "MLFLOW_EXPERIMENT_NAME": settings.experiment}
        ),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, preexec_fn=end_with_parent,
    )  # fmt: skip

    def pass_on() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() != "interrupted":
                say(line.rstrip())

    threading.Thread(target=pass_on, daemon=True).start()
    try:
        yield
    finally:
        end(process, PATIENCE_S)


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    add_command(app, monitor, MonitorSettings, example="bouquet monitor --results results")
