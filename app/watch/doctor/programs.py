"""Other programs that are asked: with a time limit, and their answer in one line."""

import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from app.watch.doctor.site import Site

PATIENCE_S = 5.0


class Done(NamedTuple):
    """How a program ended: 0 for well, and what it wrote. ``reason`` is the last line of its complaint."""

    status: int
    output: str
    reason: str = ""


def run(site: "Site", *command: str, timeout_s: float = PATIENCE_S) -> Done:
    """Run a program that may be missing, fail or hang."""
    program = site.program(command[0])
    if program is None:
        return Done(127, "", f"there is no command {command[0]}")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=dict(site.environment),
        )
    except subprocess.TimeoutExpired:
        return Done(124, "", f"it did not answer within {timeout_s:.0f} s")
    except OSError as error:
        return Done(126, "", error.strerror or str(error))
    complaint = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return Done(done.returncode, done.stdout, complaint[-1] if complaint else "")
