"""How Flower's own commands are started: their environment, and where they are found."""

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from app.environment import quiet_flower, set_variables, with_variables

# The SuperLink holds the question for a second, so there is no need to wait before asking again.
POLL_INTERVAL = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05"}


def prepare_environment(
    variables: Mapping[str, str] | None = None, defaults: Mapping[str, str] | None = None
) -> None:
    """Set what Flower and its children must find in the environment. A process does this once, when it starts.

    Flower finds ``flower-superexec`` and ``flwr-serverapp`` on PATH, so this Python's own folder comes first.

    Args:
        variables: what this kind of process adds.
        defaults: the same, where the person has set nothing.
    """
    quiet_flower()
    folder = str(Path(sys.executable).parent)
    path = with_variables({}).get("PATH", os.defpath)
    if not path.startswith(folder + os.pathsep):
        path = os.pathsep.join([folder, path])
    set_variables({"PATH": path, **(variables or {})}, POLL_INTERVAL | dict(defaults or {}))


def python_path(package: Path) -> str:
    """PYTHONPATH of a child that imports ``app`` from the folder ``package``."""
    return os.pathsep.join(filter(None, [str(package), with_variables({}).get("PYTHONPATH", "")]))


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
