"""A real terminal for a command: a pseudo-terminal of a given size, whose screen a test reads."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

import pyte
from federation_processes import ROOT


class Terminal:
    """``bouquet ARGUMENTS`` on a terminal of ``columns`` and ``lines``. Leaving the context ends it.

    Args:
        arguments: of ``program``.
        columns, lines: the terminal's size.
        environment: more than this process has.
        program: another command than this checkout's ``bouquet``.
    """

    def __init__(
        self,
        *arguments: str,
        columns: int = 80,
        lines: int = 24,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m", "app.cli"),
    ) -> None:
        self._master, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.written = b""
        outside = {
            key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS", "LINES"}
        }
        self.process = subprocess.Popen(
            [*program, *arguments],
            stdin=end, stdout=end, stderr=end, cwd=ROOT, start_new_session=True,
            env=outside | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **(environment or {})},
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self._read_until(lambda: self.process.poll() is not None, 60)
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def text(self) -> str:
        """What is on the screen, without empty ends."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    @property
    def shows_cursor(self) -> bool:
        return not self._screen.cursor.hidden

    def until(self, true: Callable[[str], bool], timeout_s: float = 120) -> str:
        """Read until the screen's text is as wanted; the text."""
        assert self._read_until(lambda: true(self.text), timeout_s), self.text
        return self.text

    def end(self, timeout_s: float = 120) -> int:
        """Read until the command has ended; its exit status."""
        assert self._read_until(lambda: self.process.poll() is not None, timeout_s), self.text
        return self.process.wait()

    def _read_until(self, true: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            ended = true()
            while select.select([self._master], [], [], 0.0 if ended else 0.1)[0]:
                try:
                    part = os.read(self._master, 65536)
                except OSError:  # the other end is closed
                    break
                self.written += part
                self._stream.feed(part)
                if ended := true():
                    break
            if ended or true():
                return True
        return False
