"""TensorBoard's own page over event files, as a process beside this one."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.fleet.host import ports
from app.process import end_with_parent

RELOAD_S = 5


@contextmanager
def page(logs: Path, address: str) -> Iterator[str]:
    """Serve the page, and give its address when it answers.

    Raises:
        UserError: it cannot be served there.
    """
    host, port = ports.split(address)
    ports.require_free("BOUQUET_TENSORBOARD", port, host)
    with tempfile.TemporaryFile("w+") as said, ExitStack() as ends:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--host", host, "--port", str(port),
                "--reload_interval", str(RELOAD_S), "--window_title", "Bouquet",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, preexec_fn=end_with_parent,
        )  # fmt: skip
        ends.callback(end, process)
        dialled = "127.0.0.1" if host == "0.0.0.0" else host

        def failed(_: OSError) -> None:
            if process.poll() is not None:
                said.seek(0)
                words = said.read().strip().splitlines() or ["it said nothing"]
                raise UserError(f"TensorBoard ended: {words[-1]}")

        ports.wait_until_open(f"{dialled}:{port}", failed, pause_s=0.2)
        yield f"http://{dialled}:{port}/"


def end(process: "subprocess.Popen[Any]", patience_s: float = 10.0) -> None:
    """End a process; by force where it has not ended after ``patience_s`` seconds."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
