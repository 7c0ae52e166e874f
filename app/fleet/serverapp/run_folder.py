"""The results folder of a run of an app that is not Bouquet's: ``results/<run>/`` with its output, its files and its end.

The app finds the folder in ``BOUQUET_RUN_FOLDER``. ``artefacts/`` in it is the ServerApp's working directory and
``BOUQUET_ARTEFACTS``, so what the app writes without a thought is kept with the run, whatever ends the run, and never
comes into a source tree. Like ``program.py``, this module imports nothing of this package.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

LOG, SUMMARY, ARTEFACTS = "log.txt", "summary.json", "artefacts"
# What may be relative to the working directory of before.
PATHS = ("BOUQUET_RESULTS", "BOUQUET_DATA", "BOUQUET_DATASET", "BOUQUET_MEMBERS", "FLWR_HOME")


class Files(Protocol):
    """``app/files.py``."""

    write_atomically: Callable[[Path, bytes], None]
    link_latest: Callable[[Path], None]


class RunFolder:
    """One run's folder.

    Args:
        path: the folder; it may not exist yet.
        summary: what ``summary.json`` says from the first on.
        files: writes it.
    """

    def __init__(self, path: Path, summary: Mapping[str, Any], files: Files) -> None:
        self.path, self.artefacts, self._files = path, path / ARTEFACTS, files
        self.summary = {"status": "running", "reason": "", "run": path.name, **summary}
        self._begun = time.monotonic()
        self._log: TextIO | None = None

    @classmethod
    def of_run(cls, run_id: int, summary: Mapping[str, Any], files: Files) -> "RunFolder":
        """The folder of a run, where the environment wants results, under the name that it gives or a new one."""
        name = os.environ.get("BOUQUET_RUN") or f"{time.strftime('%Y%m%d-%H%M%S')}-{str(run_id)[-6:]}"
        root = Path(os.environ.get("BOUQUET_RESULTS") or "results").absolute()
        told = {"flower_run": str(run_id), "mode": os.environ.get("BOUQUET_MODE", "")}
        return cls(root / name, {**told, **summary}, files)

    def enter(self) -> None:
        """Make the folder, keep this process's output in it from now on, and work in it. Raises OSError."""
        self.artefacts.mkdir(parents=True, exist_ok=True)
        self._files.link_latest(self.path)
        self._write()
        self._log = (self.path / LOG).open("a", encoding="utf-8", errors="replace")
        for stream in (sys.stdout, sys.stderr):
            self._keep(stream)
        for name in PATHS:
            if os.environ.get(name):
                os.environ[name] = str(Path(os.environ[name]).absolute())
        os.environ |= {"BOUQUET_RUN_FOLDER": str(self.path), "BOUQUET_ARTEFACTS": str(self.artefacts)}
        os.chdir(self.artefacts)

    def _keep(self, stream: TextIO) -> None:
        """Write what goes to ``stream`` into the log as well: Flower takes it at the same place."""
        write = stream.write

        def write_both(text: str) -> int:
            assert self._log is not None
            try:
                self._log.write(text)
                self._log.flush()
            except (OSError, ValueError):  # a full disk ends no run
                pass
            return write(text)

        stream.write = write_both  # type: ignore[method-assign]

    def end(self, status: str, reason: str = "") -> None:
        """Write how the run has ended: ``completed``, ``subset``, ``failed`` or ``interrupted``. Raises OSError."""
        wall_s = round(time.monotonic() - self._begun, 3)
        self.summary |= {"status": status, "reason": reason, "wall_s": wall_s}
        self._write()

    def _write(self) -> None:
        text = json.dumps(self.summary, indent=2, default=str) + "\n"
        self._files.write_atomically(self.path / SUMMARY, text.encode())
