"""What a client tells its SuperLink of itself, where its operator allows it: the lines of its log, and what it uses.

Its own lines are taken where this process prints them; those of its apps come through a pipe, which their processes write
to. Every line goes to this client's own log first. A SuperLink that does not listen costs nothing but the lines.
"""

import atexit
import json
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import grpc

from app.fleet.fleet_api.callers import channel_of_member
from app.fleet.fleet_api.told import LARGEST_LETTER, METHOD, MOST_LINES
from app.fleet.host.processes import COLOUR, EMPTY_LINE

LINES_S, USAGE_S = 2.0, 15.0
TIMEOUT_S = 10.0
MOST_KEPT = 2000  # lines, while the SuperLink is away
LONGEST_LINE = 1000
_ENVELOPE = 1024


class Lines:
    """The latest lines that are still to be told."""

    def __init__(self) -> None:
        self._kept: deque[str] = deque()
        self._left_out = 0
        self._lock = threading.Lock()

    def add(self, line: str) -> None:
        """Keep a line without its colours; the oldest one goes where there are too many. An empty one is no line."""
        line = COLOUR.sub("", line)
        if EMPTY_LINE.fullmatch(line):
            return
        with self._lock:
            self._kept.append(line[:LONGEST_LINE])
            if len(self._kept) > MOST_KEPT:
                self._kept.popleft()
                self._left_out += 1

    def take(self) -> tuple[list[str], int]:
        """As many as one letter holds, and how many were left out before them."""
        with self._lock:
            taken: list[str] = []
            room = LARGEST_LETTER - _ENVELOPE
            while self._kept and len(taken) < MOST_LINES:
                room -= len(json.dumps(self._kept[0])) + 2
                if room < 0:
                    break
                taken.append(self._kept.popleft())
            left_out, self._left_out = self._left_out, 0
            return taken, left_out

    def put_back(self, lines: list[str], left_out: int) -> None:
        """Lines that could not be told; they are told first, as far as there is room."""
        with self._lock:
            room = max(0, MOST_KEPT - len(self._kept))
            back = lines[len(lines) - room :] if room else []
            self._left_out += left_out + len(lines) - len(back)
            self._kept.extendleft(reversed(back))


class _Tee:
    """A stream of this process, whose lines are kept as well."""

    def __init__(self, stream: TextIO, lines: Lines) -> None:
        self._stream, self._lines, self._rest = stream, lines, ""

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._lines.add(line)
        self._rest = self._rest[:LONGEST_LINE]
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@dataclass(frozen=True)
class Address:
    """Where it is told, and by whom: host:port, the CA's certificate, and the client's keys."""

    superlink: str
    ca: Path
    keys: tuple[Any, Any]


class Sharing:
    """Collects and tells.

    Args:
        logs: whether lines are told.
        usage: what this client uses, as ``told.Usage``; None tells nothing of it.

    Attributes:
        output: descriptor that the processes of apps write to; None where their lines are not told.
    """

    def __init__(self, *, logs: bool, usage: Callable[[], dict[str, int]] | None) -> None:
        self._usage, self._lines = usage, Lines() if logs else None
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._read: int | None = None
        self.output: int | None = None
        if self._lines is not None:
            self._read, self.output = os.pipe()
            self._keep_own(self._lines)

    def _keep_own(self, lines: Lines) -> None:
        """From now on what this process prints and logs is kept as well."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            tee: Any = _Tee(stream, lines)
            setattr(sys, name, tee)
            for logger in (logging.getLogger(), logging.getLogger("flwr")):
                for handler in logger.handlers:
                    if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                        handler.setStream(tee)

    def begin(self, address: Address) -> None:
        """Start telling. After the processes were forked that need one thread here."""
        if self._read is not None and self._lines is not None:
            self._start(self._pass_on, os.fdopen(self._read, "r", errors="replace"), self._lines)
        self._start(self._tell_until_ended, address)
        atexit.register(self.end)

    def end(self) -> None:
        """Tell what is left, and stop."""
        self._ended.set()
        self._threads[-1].join(TIMEOUT_S)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, name="sharing", daemon=True))
        self._threads[-1].start()

    def _pass_on(self, source: IO[str], lines: Lines) -> None:
        """The lines of apps, to this client's log and to those that are told."""
        for line in source:
            with suppress(OSError, ValueError):  # the log has gone; whoever writes must not wait
                os.write(1, line.encode(errors="replace"))
            lines.add(line.rstrip("\n"))

    def _tell_until_ended(self, address: Address) -> None:
        with channel_of_member(address.superlink, address.ca, address.keys) as channel:
            tell = channel.unary_unary(METHOD)
            since = USAGE_S
            while True:
                ended = self._ended.wait(LINES_S)
                since += LINES_S
                with_usage = self._usage is not None and since >= USAGE_S
                if with_usage:
                    since = 0.0
                if not self._tell(tell, with_usage=with_usage) or ended:
                    return

    def _tell(self, tell: Callable[..., bytes], *, with_usage: bool) -> bool:
        """Tell what there is; whether it makes sense to go on."""
        lines, left_out = self._lines.take() if self._lines is not None else ([], 0)
        letter: dict[str, Any] = {"lines": lines, "left_out": left_out}
        if with_usage and self._usage is not None:
            letter["usage"] = self._usage()
        elif not lines:
            return True
        try:
            tell(json.dumps(letter).encode(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:  # a stock SuperLink
                return False
            if self._lines is not None:
                self._lines.put_back(lines, left_out)
        return True
