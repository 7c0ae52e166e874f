"""What members tell of themselves: the lines of their logs, and what they use. Each member decides whether it does.

Lines go to ``client-logs/NAME.log`` in the SuperLink's state; a file that is full becomes ``NAME.log.1``. What a member
uses stays in memory, for whoever measures (``latest``). All of it comes from outside: it is bounded, and printable.
"""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import grpc
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from app.errors import UserError
from app.fleet.fleet_api.callers import member_of
from app.fleet.fleet_api.context import Details, Refused
from app.fleet.logs import MOST_CHARACTERS, printable
from app.fleet.quiet import Budget

METHOD = "/bouquet.Fleet/Tell"
LOGS = "client-logs"  # in the SuperLink's state
LARGEST_FILE = 1 << 20
LEAST_FREE = 64 << 20  # bytes on the state's disk, which is for members first
LARGEST_LETTER = 64 * 1024
MOST_LINES = 500
MOST_LETTERS = 60  # of a member within a minute
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,80}")


class Usage(BaseModel):
    """What a client uses. ``memory_bytes`` is what its processes hold of their own: shared pages are left out."""

    model_config = ConfigDict(frozen=True)

    memory_bytes: int = Field(0, ge=0, le=1 << 60)
    messages: int = Field(0, ge=0, le=1 << 60)
    apps_loaded: int = Field(0, ge=0, le=1 << 60)


class Letter(BaseModel):
    """One call of a member. ``left_out``: lines that it had, and that were too many."""

    lines: list[Annotated[str, StringConstraints(max_length=LARGEST_LETTER)]] = Field(
        [], max_length=MOST_LINES
    )
    left_out: int = Field(0, ge=0, le=1 << 60)
    usage: Usage | None = None


latest: dict[str, tuple[float, Usage]] = {}  # by member: when it told, in seconds since 1970, and what


class Told:
    """The server's side.

    Args:
        nodes: the nodes that the SuperLink knows.
        state: the SuperLink's folder, where logs are kept; None keeps none.
        authenticated: whether callers have keys. Without, nobody is believed.
    """

    def __init__(
        self, nodes: Callable[[], Iterable[Any]], state: Path | None, *, authenticated: bool
    ) -> None:
        self._nodes, self._state, self._authenticated = nodes, state, authenticated
        self._budget, self._writing = Budget(MOST_LETTERS), threading.Lock()

    def admit(self, details: Details) -> Callable[[bytes], bytes]:
        """Let a member's letter be read. Raises Refused for anyone else."""
        if not self._authenticated:
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, "Refused: clients have no names here")
        name = member_of(self._nodes, details)
        if not self._budget.take(name):
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "Refused: it tells too much")
        return lambda body: self._take(name, body)

    def _take(self, name: str, body: bytes) -> bytes:
        try:
            letter = Letter.model_validate_json(body)
        except ValidationError:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Refused: its letter cannot be read") from None
        if letter.usage is not None:
            latest[name] = time.time(), letter.usage
        if letter.lines or letter.left_out:
            self._append(name, letter)
        return json.dumps({"taken": len(letter.lines)}).encode()

    def _append(self, name: str, letter: Letter) -> None:
        if self._state is None:
            return
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        left_out = [f"({letter.left_out} lines were left out)"] if letter.left_out else []
        lines = [f"{now} {printable(line, MOST_CHARACTERS)}\n" for line in [*left_out, *letter.lines]]
        try:
            if shutil.disk_usage(self._state).free < LEAST_FREE:
                return
            with self._writing:
                file = log_file(self._state, name)
                file.parent.mkdir(mode=0o700, exist_ok=True)
                if file.exists() and file.stat().st_size > LARGEST_FILE:
                    file.replace(file.with_suffix(".log.1"))
                with file.open("a", encoding="utf-8") as log:
                    log.writelines(lines)
        except OSError:  # the SuperLink goes on, and the client has its own log
            return


def log_file(state: Path, name: str) -> Path:
    """Where a member's lines are kept. Raises UserError for what is no member's name."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no client's name; `bouquet members` lists them")
    return state / LOGS / f"{name.replace(' ', '-')}.log"


def names_with_logs(state: Path) -> list[str]:
    """The members whose lines are kept."""
    return sorted(file.stem for file in (state / LOGS).glob("*.log"))
