"""A ServerApp runs in a process of Bouquet's: the patch that lets a SuperLink use ``app/fleet/serverapp``.

Read in flwr 1.39.0: ``superlink/cli/flower_superlink.py``; what the processes themselves replace is read there.
"""

import sys
from typing import Any

from app.fleet.patches.registry import Flower, Patch

SUPEREXEC = "app.fleet.serverapp.superexec"
_COMMAND = "flwr.superlink.cli.flower_superlink:_get_superexec_command"
_GRID = "flwr.superlink.grid.http_grid:HttpGrid"
_RUN = "flwr.superlink.runtime.run_serverapp"
_EXECUTOR = "flwr.supercore.superexec.executor"


def apply(flower: Flower, _context: Any) -> None:
    """Have this SuperLink start Bouquet's SuperExec."""
    stock = flower[_COMMAND]

    def command(*args: Any, **kwargs: Any) -> list[str]:
        return [sys.executable, "-P", "-m", SUPEREXEC, *stock(*args, **kwargs)[1:]]

    flower.replace(_COMMAND, command)


PATCH = Patch(
    name="serverapp",
    process="superlink",
    purpose="a ServerApp's end is noticed at once, its grid does not sleep, and failing clients are named for any app",
    without="a ServerApp that was killed is noticed after a minute, and an app's clients may all fail in silence",
    needs={
        _COMMAND: "5d60007f01d1",
        f"{_EXECUTOR}.factory:SubprocessExecutor": "",
        f"{_EXECUTOR}.subprocess_executor:SubprocessExecutor.launch": "83abf3dbe022",
        f"{_GRID}.get_nodes": "72404076d788",
        f"{_GRID}.push_messages": "9aa5938ad18d",
        f"{_GRID}.pull_messages": "67a5266a5a2e",
        f"{_GRID}.send_and_receive": "699c9f048f3c",
        "flwr.superlink.grid.http_grid:time": "",
        "flwr.superlink.cli.flwr_serverapp:flwr_serverapp": "b274501e3b1e",
        f"{_RUN}:run_serverapp": "2cf00cc3bc7e",
        f"{_RUN}:HttpGrid": "",
        f"{_RUN}:run_": "a3c8972eda36",
    },
    apply=apply,
)
