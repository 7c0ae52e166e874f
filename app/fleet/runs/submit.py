"""``bouquet train``: submit a run, show its log, and return how it ended."""

import hashlib
import re
import time
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.common.config import flatten_dict, parse_config_args

from app.errors import DRAINED, EVALUATION_LINE, FAILED, STATUS_LINE, SUBSET, WRONG_INPUT, UserError
from app.fleet.control import Connection, control
from app.fleet.dependencies.image import BUNDLE
from app.fleet.deployment import PACKAGE
from app.fleet.host import ports
from app.fleet.host.processes import EMPTY_LINE
from app.fleet.runs import bundle as apps
from app.fleet.runs import queue
from app.settings import RunSettings, RunValue, parse_run_config

if TYPE_CHECKING:
    from flwr.proto.run_pb2 import Run
    from flwr.supercore.control import ControlHttpClient

CONNECT_TIMEOUT_S = 120.0
NEW_CLIENTS_S = 60.0
SUBMISSION = "submission"  # a run-config key of Bouquet's own app
# Why a run has failed whose ServerApp was killed: in Flower's words, and in those of ``serverapp/superexec.py``.
CUT_OFF = ("No heartbeat received", "the ServerApp's process was killed")
_NOISE = re.compile(r"Start `flwr-serverapp` process|^Successfully installed \S+ to ")


@dataclass(frozen=True)
class Submission:
    """What to run and where.

    Attributes:
        project: the app: its folder, or its bundle.
        run_config: run-config keys that differ from the app's defaults.
        control_address: host:port of the Control API.
        ca: the federation's CA certificate; None for plaintext.
        resumes: whether it is Bouquet's own app, which goes on from a checkpoint when it is submitted again.
    """

    project: Path
    run_config: Mapping[str, RunValue]
    control_address: str = "127.0.0.1:8000"
    ca: Path | None = None
    resumes: bool = False

    @property
    def connection(self) -> Connection:
        """To the SuperLink's Control API."""
        return Connection(self.control_address, self.ca)


def run_config_for(project: Path, num_clients: int, rounds: int | None, extra: str) -> dict[str, RunValue]:
    """The run config of a federation: the tutorial's minima, scaled to the number of clients.

    Args:
        project: the app. Bouquet's own keys are checked by value, another app's by name.
        num_clients: number of clients; the run waits for all.
        rounds: number of rounds; None for the app's default.
        extra: the person's own ``key=value`` pairs, which win.

    Raises:
        UserError: an unknown key, a value out of range, or an app that cannot run.
    """
    known, is_bouquet = _app_config(project)
    apps.check(project)
    derived: dict[str, RunValue] = {
        "min-available-nodes": num_clients,
        "min-train-nodes": num_clients,
        "min-evaluate-nodes": max(1, num_clients // 2),
    }
    if rounds is not None:
        derived["num-server-rounds"] = rounds
    if not is_bouquet:
        if rounds is not None and "num-server-rounds" not in known:
            raise UserError(
                "--rounds (ROUNDS): this app has no key num-server-rounds; leave it out, and give the app's own with "
                f"--config: {', '.join(sorted(known)) or 'it has none'}"
            )
        given = _foreign_config(extra, known)
        return {key: value for key, value in derived.items() if key in known} | given
    given = parse_run_config(extra)
    values = derived | given
    settings = RunSettings.from_run_config(values)
    for name in ("min-available-nodes", "min-train-nodes", "min-evaluate-nodes"):
        if int(values[name]) > num_clients:
            raise UserError(
                f"{name}={values[name]} is more than the {num_clients} clients there are; lower it or raise NUM_CLIENTS"
            )
    # The minimum that was derived above must not overrule a fraction that the person chose.
    for phase, fraction in (("train", settings.fraction_train), ("evaluate", settings.fraction_evaluate)):
        if f"fraction-{phase}" in given and f"min-{phase}-nodes" not in given:
            values[f"min-{phase}-nodes"] = max(1, int(num_clients * fraction))
    return values


def _app_config(project: Path) -> tuple[set[str], bool]:
    """The run-config keys of the app in ``project``, and whether it is Bouquet's own."""
    toml = apps.manifest(project)
    try:
        app = toml["tool"]["flwr"]["app"]
        is_bouquet = (app["publisher"], toml["project"]["name"]) == ("bouquet", "bouquet")
        return set(flatten_dict(app.get("config", {}))), is_bouquet
    except KeyError:
        raise UserError(
            f"{project / 'pyproject.toml'} is not that of a Flower app: it needs the tables [project], with a name, "
            "and [tool.flwr.app], with a publisher"
        ) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{project / 'pyproject.toml'} is not that of a Flower app: {error}") from None


def _foreign_config(text: str, known: set[str]) -> dict[str, RunValue]:
    try:
        values: dict[str, RunValue] = parse_config_args([text] if text.strip() else None)
    except ValueError as error:
        raise UserError(f"run config {text!r} cannot be read: {error}") from None
    for key in values:
        if key not in known:
            raise UserError(
                f"run config: this app has no key '{key}'; its keys are {', '.join(sorted(known))}"
            )
    return values


def wait_for_control_api(address: str, timeout_s: float, alive: Callable[[], bool] = lambda: True) -> None:
    """Wait until the Control API's port answers.

    Raises:
        UserError: it did not answer within ``timeout_s`` seconds, or ``alive`` returned False.
    """
    deadline = time.monotonic() + timeout_s

    def failed(_error: OSError) -> None:
        if not alive() or time.monotonic() > deadline:
            raise UserError(
                f"no SuperLink answers at {address}; start it (bouquet superlink) or look at its log"
            )

    ports.wait_until_open(address, failed)


def wait_for_clients(submission: Submission, number: int, look: Callable[[], None]) -> None:
    """Wait until ``number`` clients are online; ``look`` is called again and again, and raises to give up."""
    from flwr.proto.control_pb2 import ListNodesRequest

    with control(submission.connection) as client:
        while (
            sum(node.status == "online" for node in client.ListNodes(ListNodesRequest()).nodes_info) < number
        ):
            look()
            time.sleep(0.1)


def wait_for_the_new(submission: Submission, number: int, echo: Callable[[str], None]) -> None:
    """Wait for clients that are enrolled and have never been in, up to ``number`` in all: those that start right now.

    An app that is not Bouquet's takes the clients that are there when it begins.
    """
    from flwr.proto.control_pb2 import ListNodesRequest

    deadline = time.monotonic() + NEW_CLIENTS_S
    with control(submission.connection) as client:
        told = False
        while True:
            states = [node.status for node in client.ListNodes(ListNodesRequest()).nodes_info]
            online = states.count("online")
            if online >= number or "registered" not in states:
                return
            if time.monotonic() > deadline:
                echo(
                    f"{online} of {number} clients are connected after {NEW_CLIENTS_S:g} s; the app begins with them"
                )
                return
            if not told:
                echo(f"waiting for clients: {online} of {number} connected")
                told = True
            time.sleep(0.2)


def wait_for_as_many(submission: Submission, before: int, within_s: float) -> int:
    """Wait until as many clients are online as were before the SuperLink was lost, or ``within_s``; how many are, or were."""
    from flwr.proto.control_pb2 import ListNodesRequest

    deadline = time.monotonic() + within_s
    with control(submission.connection) as client:
        while True:
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
            online: int = sum(node.status == "online" for node in nodes)
            if online >= before or time.monotonic() >= deadline:
                return max(before, online)
            time.sleep(0.2)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        finished: whether it ended by itself, and not with an error.
        run_id: Flower's id of the run.
        cut_off: whether it ended because the ServerApp's process was killed.
        status: the exit status for it: 0 as asked, 1 failed, 2 wrong input, 3 finished on a subset of the clients.
        evaluation: what the clients found of a model that was only evaluated, as JSON.
    """

    finished: bool
    run_id: int
    status: int
    evaluation: str = ""
    cut_off: bool = False


def submit(
    submission: Submission, echo: Callable[[str], None], begun: Callable[[int], None] = lambda _: None
) -> Outcome:
    """Submit the run, pass its log to ``echo``, and return how it ended.

    A run of the same app with the same settings that is under way is followed in place of a second one. An interruption
    (Ctrl-C) stops the run on the SuperLink.

    Args:
        submission: what to run.
        echo: takes each line of the run's log.
        begun: called with Flower's id of the run when it has been submitted.
    """
    from flwr.proto.control_pb2 import StopRunRequest

    with control(submission.connection) as client:
        run_id = _start(client, submission, echo)
        try:
            begun(run_id)
            queue.wait(client, run_id, echo)
            explained, told, evaluation = _follow(client, run_id, echo)
        except KeyboardInterrupt:
            with suppress(Exception):
                client.StopRun(StopRunRequest(run_id=run_id))
            raise
        run = _run(client, run_id)
    finished = run.status.sub_status == "completed"
    cut_off = run.status.sub_status == "failed" and any(reason in run.status.details for reason in CUT_OFF)
    if not (finished or explained or cut_off):
        echo(
            f"error: the run of {run.fab_id} ended as {run.status.status}:{run.status.sub_status} {run.status.details}".rstrip()
        )
    status = (SUBSET if told == SUBSET else 0) if finished else told or FAILED
    return Outcome(finished, run_id, status, evaluation, cut_off)


def _start(client: "ControlHttpClient", submission: Submission, echo: Callable[[str], None]) -> int:
    """Start the run, or find the one that is the same and under way; its id."""
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
    from flwr.supercore.fab import Fab

    content = apps.build(submission.project)
    fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
    request = StartRunRequest(
        fab=fab_to_proto(fab),
        override_config=user_config_to_proto(dict(submission.run_config)),
        federation="",
    )
    asked = _without_submission(request.override_config)
    for run_id, run in client.ListRuns(ListRunsRequest()).run_dict.items():
        same = run.fab_hash == fab.hash_str and _without_submission(run.override_config) == asked
        if same and run.status.status != "finished":
            echo(f"this run is under way already (run {run_id}): following it")
            return int(run_id)
    answer = client.StartRun(request)
    if not answer.HasField("run_id"):
        raise UserError("the SuperLink did not start the run; its log says why")
    return int(answer.run_id)


def _without_submission(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run config without what tells two submissions of the same apart."""
    return {key: value for key, value in config.items() if key != SUBMISSION}


def _run(client: "ControlHttpClient", run_id: int) -> "Run":
    """The SuperLink's record of the run."""
    from flwr.proto.control_pb2 import ListRunsRequest

    run: Run = client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id]
    return run


def _follow(client: "ControlHttpClient", run_id: int, echo: Callable[[str], None]) -> tuple[bool, int, str]:
    """Pass the ServerApp's output on, line by line, until the run has ended.

    Returns whether the app printed a line ``error: …``, the exit status that it told (0 for none), and the evaluation. The
    lines after an error are left out: Flower's traceback would hide it.
    """
    from flwr.proto.control_pb2 import StreamLogsRequest

    latest, rest, mistaken, told, evaluation = 0.0, "", False, 0, ""
    while True:
        for part in client.StreamLogs(StreamLogsRequest(run_id=run_id, after_timestamp=latest)):
            latest = max(latest, part.latest_timestamp)
            *lines, rest = (rest + part.log_output).split("\n")
            for line in lines:
                if line.startswith(STATUS_LINE):
                    told = _told(line)
                    continue
                if line.startswith(EVALUATION_LINE):
                    evaluation = line.removeprefix(EVALUATION_LINE)
                    continue
                mistake = line.startswith("error: ")
                if mistake or not (mistaken or _NOISE.search(line) or EMPTY_LINE.fullmatch(line)):
                    echo(line)
                mistaken = mistaken or mistake
        if _run(client, run_id).status.status == "finished":
            break
        time.sleep(0.2)
    if rest.strip() and not mistaken:
        echo(rest)
    return mistaken, told, evaluation


def _told(line: str) -> int:
    """The exit status in a line of the app; 0 for one that no run may choose."""
    text = line.removeprefix(STATUS_LINE).strip()
    return int(text) if text in {str(FAILED), str(WRONG_INPUT), str(SUBSET), str(DRAINED)} else 0


def project_folder(given: Path | str | None = None) -> Path:
    """The app to submit: the one given, the one of the current folder, as in an image of `bouquet image`, else Bouquet's own."""
    if given:
        return Path(given)
    here = Path.cwd()
    if (here / BUNDLE).is_file():
        return here / BUNDLE
    return here if _holds_app(here) else PACKAGE


def is_own_app(project: Path) -> bool:
    """Whether the app in ``project`` is Bouquet's. Raises UserError where there is none."""
    return _app_config(project)[1]


def _holds_app(folder: Path) -> bool:
    """Whether ``folder`` has a ``pyproject.toml`` that speaks of a Flower app, be it a good one or not."""
    try:
        toml = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(toml.get("tool"), dict) and "app" in toml["tool"].get("flwr", {})
