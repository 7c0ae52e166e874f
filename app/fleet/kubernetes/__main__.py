"""The steps of `app.fleet.kubernetes`, one per container."""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from app.errors import UserError

ALIVE = Path("/tmp/alive")
ENROLLED = Path("/tmp/enrolled")


def keys() -> int:
    """Fill the Secrets and ConfigMaps that the other pods wait for."""
    from app.fleet.kubernetes.api import Api
    from app.fleet.kubernetes.keys import make_keys

    make_keys(Api.of_this_pod(), os.environ)
    return 0


def node_key() -> int:
    """Make this client's key on its own volume."""
    from app.fleet.kubernetes.keys import make_client_key

    make_client_key(Path(os.environ["BOUQUET_NODE_KEY"]))
    return 0


def enroll() -> int:
    """Keep the SuperLink's members equal to the member list, for ever."""
    from app.fleet.kubernetes.enroll import keep_enrolled
    from app.fleet.members import Connection

    connection = Connection(ca=Path(os.environ["BOUQUET_CA"]))
    keep_enrolled(Path(os.environ["BOUQUET_MEMBER_LIST"]), connection, ENROLLED, _alive)
    return 0


def train() -> int:
    """Submit the run of the settings, then stay for runs by hand."""
    from app.fleet.kubernetes.train import train_once

    try:
        train_once(os.environ, _alive)
    except UserError as error:
        # A container that ends takes the SuperLink out of its Service; the message stays in the log.
        print(f"bouquet: {error}", file=sys.stderr, flush=True)
    while True:
        _alive()
        time.sleep(5)


def result() -> int:
    """Wait for the run and end as it did."""
    from app.fleet.kubernetes.train import wait_for_result

    return wait_for_result(os.environ)


STEPS = {"keys": keys, "node-key": node_key, "enroll": enroll, "train": train, "result": result}


def _alive() -> None:
    ALIVE.touch()


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(arguments: list[str]) -> int:
    """Run one step; returns its exit status, 2 for a mistake a person can mend."""
    signal.signal(signal.SIGTERM, _stop)  # the first process of a container ignores it otherwise
    if len(arguments) != 1 or arguments[0] not in STEPS:
        print(f"usage: python -m app.fleet.kubernetes {'|'.join(STEPS)}", file=sys.stderr)
        return 2
    try:
        return STEPS[arguments[0]]()
    except UserError as error:
        print(f"bouquet: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
