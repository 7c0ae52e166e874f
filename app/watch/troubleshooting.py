"""Where ``docs/troubleshooting.md`` explains an error: the section that has a row for it."""

import re
from functools import cache
from pathlib import Path

PAGE = "docs/troubleshooting.md"
# Beside this file in an installed package, else in the checkout.
_FILES = (Path(__file__).with_suffix(".md"), Path(__file__).parents[2] / PAGE)
_TABLES = "## Why a client does not get in"  # what stands before has no rows of messages
_GAP = "…"  # stands for a name or a value


def entry(message: str) -> str:
    """The page and section that explain ``message``; empty where none does."""
    text = " ".join(message.split()).replace("|", "/")
    fitting = [(weight, section) for weight, pattern, section in _rows() if pattern.fullmatch(text)]
    return f"{PAGE}#{max(fitting)[1]}" if fitting else ""


@cache
def _rows() -> list[tuple[int, re.Pattern[str], str]]:
    """Each row's weight (the characters that it gives), its form, and its section."""
    page = next((file for file in _FILES if file.is_file()), None)
    rows: list[tuple[int, re.Pattern[str], str]] = []
    section = ""
    if page is None:
        return rows
    _, head, tables = page.read_text(encoding="utf-8").partition(_TABLES)
    for line in (head + tables).splitlines():
        if line.startswith("## "):
            section = anchor(line.removeprefix("## "))
        elif line.startswith("| ") and (form := line.split(" | ")[0].removeprefix("| ")) != "message":
            parts = form.split(_GAP)
            rows.append((len("".join(parts)), re.compile(".*".join(map(re.escape, parts))), section))
    return rows


def anchor(heading: str) -> str:
    """The name under which pages in Markdown link to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
