"""The log of a process that outsiders talk to: a record is one line of bounded length, and there are not too many alike.

Ids, names and errors in Flower's records come from outside. As they are, they could write lines of their own, move a
terminal's cursor, or fill a disk.
"""

import logging
import traceback
from typing import Any

from app.fleet.quiet import Budget

MOST_CHARACTERS = 1000  # of a record
MOST_ALIKE = 60  # records of one place in the code within a minute
MOST_FRAMES = 20  # lines of a traceback


def printable(text: str, most: int = MOST_CHARACTERS) -> str:
    """``text`` on one line, shortened, with all that is not printable as Python writes it in a string."""
    if len(text) > most:
        text = f"{text[:most]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Record(logging.LogRecord):
    """A record whose message is printable, and whose traceback is indented."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0] is not None:
            lines = "".join(traceback.format_exception(*self.exc_info)).splitlines()
            self.exc_text = "\n".join(f"    {printable(line)}" for line in lines[-MOST_FRAMES:])

    def getMessage(self) -> str:
        return printable(super().getMessage())


class AlikeFilter(logging.Filter):
    """Lets records of one place in the code through a few times a minute; the last one says so."""

    def __init__(self, budget: Budget | None = None) -> None:
        super().__init__()
        self._budget = budget or Budget(MOST_ALIKE)

    def filter(self, record: logging.LogRecord) -> bool:
        number = self._budget.take(f"{record.pathname}:{record.lineno}")
        if number == self._budget.most:
            record.msg = f"{record.msg} (more lines like this one are left out for a minute)"
        return number > 0


def escape_records() -> None:
    """From now on the records of all loggers of this process are printable."""
    logging.setLogRecordFactory(Record)


def limit_alike() -> None:
    """From now on Flower's and gRPC's records are limited. Call it when Flower is imported."""
    alike = AlikeFilter()
    for handler in (*logging.getLogger("flwr").handlers, logging.lastResort):
        if handler is not None:
            handler.addFilter(alike)
