"""A record of the log is one line, however it was made."""

import io
import logging
import sys

import pytest

from app.fleet.logs import MOST_CHARACTERS, AlikeFilter, Record, printable
from app.fleet.quiet import Budget

FORGED = "x\nERROR: forged\r\x1b[2J\x85"


def written(*args: object, exc_info: object = None, number: int = 1) -> str:
    """What a handler writes of a record ``number`` times."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(AlikeFilter(Budget(3)))
    for _ in range(number):
        message, *rest = args
        handler.handle(Record("flwr", logging.ERROR, "file.py", 7, message, tuple(rest), exc_info))
    return stream.getvalue()


def test_what_came_from_outside_stays_on_its_line() -> None:
    for text in (written(f"id {FORGED}"), written("id %s", FORGED), written("%s", [FORGED])):
        assert text.count("\n") == 1 and text[:-1].isprintable() and "forged" in text


def test_a_record_is_short() -> None:
    text = written("id %s", "\n" * 1_000_000)
    assert len(text) < 3 * MOST_CHARACTERS and "1000003 characters" in text


def test_letters_of_all_languages_stay() -> None:
    assert printable("größe 数 é") == "größe 数 é"


def test_a_traceback_is_indented_and_cannot_forge_a_line() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        text = written("it failed", exc_info=sys.exc_info())
    first, *rest = text.splitlines()
    assert first == "it failed" and all(line.startswith("    ") for line in rest)
    assert "ValueError" in text and "\x1b" not in text


def test_records_alike_are_few_and_the_last_says_so() -> None:
    lines = written("again %s", 1, number=20).splitlines()
    assert len(lines) == 3 and "left out for a minute" in lines[-1] and "left out" not in lines[0]


@pytest.mark.parametrize("text", ["", "plain"])
def test_plain_text_is_as_it_was(text: str) -> None:
    assert printable(text) == text
