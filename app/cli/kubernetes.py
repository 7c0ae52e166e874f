"""The steps of Bouquet's pods, one per container."""

import signal
import sys
import time
from pathlib import Path
from types import FrameType

import typer

from app.environment import read
from app.errors import UserError
from app.fleet.deployment import KubernetesSettings

ALIVE = Path("/tmp/alive")
ENROLLED = Path("/tmp/enrolled")
steps = typer.Typer(no_args_is_help=True, help="The steps of the pods in deploy/k8s, one per container.")


@steps.callback()
def prepare() -> None:
    """End on SIGTERM, which the first process of a container ignores unless it has a handler."""
    signal.signal(signal.SIGTERM, _stop)


@steps.command(epilog="Example: bouquet kubernetes keys")
def keys() -> None:
    """Fill the Secrets and ConfigMaps that the other pods wait for (the Job, the only pod with a token)."""
    from app.fleet.kubernetes.api import Api
    from app.fleet.kubernetes.keys import make_keys

    settings = read(KubernetesSettings)
    make_keys(Api.of_this_pod(settings), settings)


@steps.command(epilog="Example: bouquet kubernetes node-key")
def node_key() -> None:
    """Make this client's key on its own volume (an init container)."""
    from app.fleet.kubernetes.keys import make_client_key

    settings = read(KubernetesSettings)
    make_client_key(_required(settings.node_key, "BOUQUET_NODE_KEY"), settings.pod_name)


@steps.command(epilog="Example: bouquet kubernetes enroll")
def enroll() -> None:
    """Keep the SuperLink's members equal to the member list; does not end."""
    from app.fleet.control import Connection
    from app.fleet.kubernetes.enroll import keep_enrolled

    settings = read(KubernetesSettings)
    connection = Connection(ca=_required(settings.ca, "BOUQUET_CA"))
    keep_enrolled(_required(settings.member_list, "BOUQUET_MEMBER_LIST"), connection, ENROLLED, _alive)


@steps.command(epilog="Example: bouquet kubernetes train")
def train() -> None:
    """Submit the run of the settings, then stay for runs by hand."""
    from app.fleet.kubernetes.train import train_once

    try:
        train_once(read(KubernetesSettings), _alive)
    except UserError as error:
        # A container that ends takes the SuperLink out of its Service; the message stays in the log.
        print(f"error: {error}", file=sys.stderr, flush=True)
    while True:
        _alive()
        time.sleep(5)


@steps.command(epilog="Example: bouquet kubernetes result")
def result() -> None:
    """Wait for the run and end with its exit status (by hand, in the container of `train`)."""
    from app.fleet.kubernetes.train import wait_for_result

    raise typer.Exit(wait_for_result(read(KubernetesSettings)))


def _required(path: Path | None, variable: str) -> Path:
    if path is None:
        raise UserError(f"{variable} is not set; the manifests in deploy/k8s set it")
    return path


def _alive() -> None:
    ALIVE.touch()


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    app.add_typer(steps, name="kubernetes")
