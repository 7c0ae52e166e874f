"""How Flower's own commands are started: their environment, and where they are found."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # The SuperLink holds the question for a second (longpoll.py), so there is no need to wait before asking again.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
}


def prepare_environment() -> None:
    """Set what Flower reads from the environment, without overriding what the person has set.

    Flower finds ``flower-superexec`` and ``flwr-serverapp`` on PATH, so this Python's own folder comes first.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    folder = str(Path(sys.executable).parent)
    if not os.environ.get("PATH", "").startswith(folder + os.pathsep):
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])


@contextmanager
def imports() -> Iterator[None]:
    """Import without the garbage collector, which walks all that is there again and again: a fifth of the time.

    What was imported stays for good, so the collector need not look at it later either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
