"""``bouquet train``: submit the run, show its progress, and end with its result."""

import hashlib
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.common.config import flatten_dict, parse_config_args

from app.errors import UserError
from app.fleet import apps, flower
from app.fleet.processes import EMPTY_LINE
from app.settings import RunSettings, RunValue, parse_run_config

if TYPE_CHECKING:
    import httpx
    from flwr.proto.run_pb2 import Run
    from flwr.supercore.control import ControlHttpClient

CONNECT_TIMEOUT_S = 120.0
_NOISE = re.compile(r"Start `flwr-serverapp` process|^Successfully installed \S+ to ")


@dataclass(frozen=True)
class Submission:
    """What to run and where.

    Attributes:
        project: folder with the app's pyproject.toml.
        run_config: run-config keys that differ from the app's defaults.
        control_address: host:port of the Control API.
        ca: the federation's CA certificate; None for plaintext.
    """

    project: Path
    run_config: Mapping[str, RunValue]
    control_address: str = "127.0.0.1:8000"
    ca: Path | None = None


def run_config_for(project: Path, clients: int, rounds: int | None, extra: str) -> dict[str, RunValue]:
    """The run config of a federation of ``clients``: the tutorial's minima, scaled to their number.

    Args:
        project: folder of the app. Bouquet's own keys are checked by value, another app's by name.
        clients: number of clients; all are waited for.
        rounds: number of rounds; None for the app's default.
        extra: the person's own pairs, which win.

    Raises:
        UserError: an unknown key or a value out of range.
    """
    known, is_bouquet = _app_config(project)
    derived: dict[str, RunValue] = {
        "min-available-nodes": clients,
        "min-train-nodes": clients,
        "min-evaluate-nodes": max(1, clients // 2),
    }
    if rounds is not None:
        derived["num-server-rounds"] = rounds
    if not is_bouquet:
        given = _foreign_config(extra, known)
        return {key: value for key, value in derived.items() if key in known} | given
    given = parse_run_config(extra)
    values = derived | given
    settings = RunSettings.from_run_config(values)
    for name in ("min-available-nodes", "min-train-nodes", "min-evaluate-nodes"):
        if int(values[name]) > clients:
            raise UserError(
                f"{name}={values[name]} is more than the {clients} clients there are; lower it or raise NUM_CLIENTS"
            )
    # A fraction that the person chose is not to be overruled by the minimum derived above.
    for phase, fraction in (("train", settings.fraction_train), ("evaluate", settings.fraction_evaluate)):
        if f"fraction-{phase}" in given and f"min-{phase}-nodes" not in given:
            values[f"min-{phase}-nodes"] = max(1, int(clients * fraction))
    return values


def _app_config(project: Path) -> tuple[set[str], bool]:
    """The run-config keys of the app in ``project``, and whether it is Bouquet's own."""
    try:
        toml = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
        app = toml["tool"]["flwr"]["app"]
        is_bouquet = (app["publisher"], toml["project"]["name"]) == ("bouquet", "bouquet")
        return set(flatten_dict(app.get("config", {}))), is_bouquet
    except OSError:
        raise UserError(f"{project} is no Flower app: it has no pyproject.toml") from None
    except (KeyError, TypeError, ValueError) as error:
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


@contextmanager
def control(address: str, ca: Path | None) -> Iterator["ControlHttpClient"]:
    """Flower's client of the Control API, closed at the end."""
    import httpx
    from flwr.cli.utils import CliClientHttpInterceptor  # type: ignore[attr-defined]
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    client = ControlHttpClient.from_server_address(
        server_address=address,
        insecure=ca is None,
        root_certificates=ca.read_bytes() if ca else None,
        interceptors=[CliClientHttpInterceptor(), RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        yield client
    except httpx.HTTPStatusError as error:
        raise UserError(f"the SuperLink refused: {_reason(error.response)}") from None
    except httpx.TransportError as error:
        raise UserError(
            f"the SuperLink at {address} does not answer as it should ({error}); look at its log"
        ) from None
    finally:
        client.close()


def _reason(response: "httpx.Response") -> str:
    """What Flower's Control API says in an error response."""
    try:
        answer = response.json()
        return f"{answer.get('message') or answer} {answer.get('public_details') or ''}".strip()
    except (ValueError, AttributeError):
        return f"{response.status_code} {response.text[:200]}"


def wait_for_superlink(address: str, timeout_s: float, alive: Callable[[], bool] = lambda: True) -> None:
    """Wait until the Control API's port answers.

    Raises:
        UserError: it did not within ``timeout_s`` seconds, or ``alive`` said that waiting is in vain.
    """
    import socket

    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1.0).close()
            return
        except OSError:
            if not alive() or time.monotonic() > deadline:
                raise UserError(
                    f"no SuperLink answers at {address}; start it (bouquet superlink) or look at its log"
                ) from None
            time.sleep(0.05)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        finished: it went through to its end.
        run_id: Flower's id of the run.
        bytes_down: bytes that the SuperLink sent to the SuperNodes for this run, as it counted them.
        bytes_up: bytes that it received from them.
    """

    finished: bool
    run_id: int
    bytes_down: int
    bytes_up: int


def submit(
    submission: Submission, say: Callable[[str], None], begun: Callable[[], None] = lambda: None
) -> Outcome:
    """Submit the run, pass its log on to ``say``, and return how it ended.

    An interruption (Ctrl-C) stops the run on the SuperLink.

    Args:
        submission: what to run.
        say: takes each line of the run's log.
        begun: called when the run has been submitted.
    """
    flower.prepare_environment()
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import StartRunRequest, StopRunRequest
    from flwr.supercore.fab import Fab

    content = apps.build(submission.project)
    fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
    with control(submission.control_address, submission.ca) as client:
        answer = client.StartRun(
            StartRunRequest(
                fab=fab_to_proto(fab),
                override_config=user_config_to_proto(dict(submission.run_config)),
                federation="",
            )
        )
        if not answer.HasField("run_id"):
            raise UserError("the SuperLink did not start the run; its log says why")
        try:
            begun()
            explained = _follow(client, answer.run_id, say)
        except KeyboardInterrupt:
            with suppress(Exception):
                client.StopRun(StopRunRequest(run_id=answer.run_id))
            raise
        run = _run(client, answer.run_id)
    finished = run.status.sub_status == "completed"
    if not finished and not explained:
        say(
            f"error: the run ended as {run.status.status}:{run.status.sub_status} {run.status.details}".rstrip()
        )
    return Outcome(finished, answer.run_id, run.bytes_sent, run.bytes_recv)


def _run(client: "ControlHttpClient", run_id: int) -> "Run":
    """What the SuperLink knows of the run."""
    from flwr.proto.control_pb2 import ListRunsRequest

    run: Run = client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id]
    return run


def _follow(client: "ControlHttpClient", run_id: int, say: Callable[[str], None]) -> bool:
    """Pass the ServerApp's output on, line by line, until the run has ended; whether the app said what went wrong.

    It has with a line ``error: …``; Flower's traceback would bury it.
    """
    from flwr.proto.control_pb2 import StreamLogsRequest

    latest, rest, mistaken = 0.0, "", False
    while True:
        for part in client.StreamLogs(StreamLogsRequest(run_id=run_id, after_timestamp=latest)):
            latest = max(latest, part.latest_timestamp)
            *lines, rest = (rest + part.log_output).split("\n")
            for line in lines:
                mistake = line.startswith("error: ")
                if mistake or not (mistaken or _NOISE.search(line) or EMPTY_LINE.fullmatch(line)):
                    say(line)
                mistaken = mistaken or mistake
        if _run(client, run_id).status.status == "finished":
            break
        time.sleep(0.2)
    if rest.strip() and not mistaken:
        say(rest)
    return mistaken


def project_folder(given: str = "") -> Path:
    """The app to submit: the one given, the current folder if it is one, else the installed Bouquet's."""
    if given:
        return Path(given)
    here = Path.cwd()
    if (here / "pyproject.toml").is_file():
        return here
    return Path(os.environ.get("BOUQUET_PROJECT", "") or Path(__file__).resolve().parents[2])
