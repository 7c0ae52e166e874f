"""The page: sections of figures, tables and pictures, in one file that needs nothing beside it.

All text comes from a run, and so in part from clients. The template escapes it, and the page's own policy lets no script run and
nothing be loaded.
"""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.errors import UserError
from app.files import write_atomically
from app.watch.report.drawing import Figure, Table
from app.watch.report.examined import Example

MOST_ROWS = 300  # of a table on the page; its file has all
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass
class Section:
    """A part of the page. ``tables`` are a title, the name of the file beside the page, and the rows.

    Of ``folded`` ones the page shows the titles first. ``files`` are not shown.
    """

    name: str
    title: str
    notes: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[tuple[str, str, Table]] = field(default_factory=list)
    folded: list[tuple[str, str, Table]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    files: dict[str, Table] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.notes or self.figures or self.tables or self.examples)


@dataclass
class Page:
    """A page. ``files`` is the folder beside it that has its figures and tables as PNG and CSV."""

    title: str
    heading: str
    lead: str
    files: str
    status: str = ""
    reason: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    foot: str = ""


def write(page: Page, file: Path) -> list[Path]:
    """Write the page and the folder beside it; what was written.

    Raises:
        UserError: something cannot be written.
    """
    folder = file.parent / page.files
    beside: dict[str, bytes] = {}
    for section in page.sections:
        for figure in section.figures:
            beside[f"{figure.name}.png"] = figure.png
            beside[f"{figure.name}.csv"] = as_csv(figure.table)
        named = {name: table for _, name, table in [*section.tables, *section.folded]} | section.files
        beside |= {f"{name}.csv": as_csv(table) for name, table in named.items()}
        for number, example in enumerate(section.examples, 1):
            beside[f"example-{number}-{'right' if example.is_right else 'wrong'}.png"] = example.png
    for name, content in beside.items():
        save(folder / name, content)
    save(file, html(page).encode())
    return [file, *(folder / name for name in beside)]


def save(file: Path, content: bytes) -> None:
    """Write one file of a report. Raises UserError where it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    except OSError as error:
        where = error.filename or file
        raise UserError(f"the report cannot be written: {where}: {error.strerror}; give --out") from None


def html(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["cell"] = cell
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    css = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(page=page, css=css, most_rows=MOST_ROWS)


def as_csv(table: Table) -> bytes:
    """The table as a file for spreadsheets. Text that one would take for a formula is set in quotes of its own."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow([_plain(name) for name in table.columns])
    rows.writerows([_plain(value) for value in row] for row in table.rows)
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return f"{value:.6g}" if isinstance(value, float) else value


def cell(value: Any) -> str:
    """A value as the page shows it."""
    if value is None or value == "":
        return "–"  # noqa: RUF001 - a dash for what is not known
    if isinstance(value, float):
        return number(value)
    if isinstance(value, datetime):
        return moment(value)
    return str(value)


def number(value: float | None) -> str:
    """A number with four digits that count."""
    if value is None:
        return cell(None)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def moment(time: datetime | None) -> str:
    """A time for people, in UTC."""
    return cell(None) if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def only(figures: Sequence[Figure | None]) -> list[Figure]:
    """The figures that there are."""
    return [figure for figure in figures if figure is not None]
