"""Figures that follow the page's colours: drawn once with fixed colours, which the SVG then takes from the page's CSS."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

# The light theme; `page.css` has both. Okabe and Ito's colours, which colour-blind people can tell apart, a little darker on
# white. Each stands for a variable of the page, so no two may be alike.
COLOURS = {
    "#1c1e21": "ink",
    "#5b6069": "soft",
    "#d9dce1": "line",
    "#fbfbfc": "card",
    "#0067a5": "c1",
    "#c05000": "c2",
    "#007a5a": "c3",
    "#a8477f": "c4",
    "#8a6d00": "c5",
    "#3f8fc4": "c6",
    "#b3261e": "bad",
    "#e9ecf0": "none",
}
_BY_NAME = {name: colour for colour, name in COLOURS.items()}
SERIES = ("c1", "c2", "c3", "c4", "c5", "c6")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
DPI = 144
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bouquet",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _BY_NAME["soft"],
    "axes.labelcolor": _BY_NAME["ink"],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": _BY_NAME["ink"],
    "text.parse_math": False,
    "xtick.color": _BY_NAME["soft"],
    "ytick.color": _BY_NAME["soft"],
    "xtick.labelcolor": _BY_NAME["ink"],
    "ytick.labelcolor": _BY_NAME["ink"],
    "grid.color": _BY_NAME["line"],
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Table:
    """Rows of a CSV file and of the page. ``numbers`` are the columns that are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A figure with its text alternative.

    Attributes:
        name: of its files.
        title: its heading.
        description: what it shows, in a sentence, for who cannot see it.
        svg: with colours from the page.
        png: for other programs, on white.
        table: the numbers that it is drawn from.
        width: in pixels of the page; a wide figure scrolls on a phone.
    """

    name: str
    title: str
    description: str
    svg: str
    png: bytes
    table: Table
    width: int

    @property
    def is_wide(self) -> bool:
        return self.width > WIDE


LARGEST = 1.2  # how much larger than that a figure may become
WIDE = 600  # pixels; a phone shows less than that at a size that can be read


def colour(name: str) -> str:
    """A colour of the page, to draw with."""
    return _BY_NAME[name]


def series(number: int) -> dict[str, Any]:
    """How the line of this number looks: colour, marker and dashes differ."""
    return {
        "color": colour(SERIES[number % len(SERIES)]),
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
        "markeredgecolor": colour("card"),
        "markeredgewidth": 0.6,
    }


class Sheet:
    """What :func:`sheet` yields: axes to draw on, and at its end the figure's two forms."""

    def __init__(self, width: float, height: float) -> None:
        self.canvas = Canvas(figsize=(width, height), layout="constrained")
        self.axes: Any = self.canvas.add_subplot()
        self.width = width
        self.svg, self.png = "", b""

    def finish(self, name: str) -> None:
        """Make both forms."""
        FigureCanvasAgg(self.canvas)
        picture, drawing = io.BytesIO(), io.StringIO()
        self.canvas.savefig(picture, format="png", dpi=DPI, facecolor="white")
        self.canvas.savefig(drawing, format="svg", metadata={"Date": None}, transparent=True)
        self.png, self.svg = (
            picture.getvalue(),
            _for_page(drawing.getvalue(), name, self.width * LARGEST * 100),
        )

    def figure(self, name: str, title: str, description: str, table: Table) -> Figure:
        """The finished figure."""
        return Figure(name, title, description, self.svg, self.png, table, round(self.width * 100))


@contextmanager
def sheet(name: str, width: float = 4.2, height: float = 2.8) -> Iterator[Sheet]:
    """A figure of so many inches, a hundred pixels of the page each."""
    with mpl.rc_context(_STYLE):
        made = Sheet(width, height)
        yield made
        made.finish(name)


def rounds_axis(axes: Any, numbers: Sequence[int]) -> None:
    """Let the horizontal axis count rounds."""
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if len(numbers) == 1:
        axes.set_xlim(numbers[0] - 0.5, numbers[0] + 0.5)
    axes.grid(axis="y")


def heat(axes: Any, values: Any, *, lowest: float, highest: float, cmap: str = "cividis") -> Any:
    """Cells of one size, coloured by value; NaN stays empty."""
    shown = axes.imshow(values, vmin=lowest, vmax=highest, cmap=cmap, aspect="auto", interpolation="nearest")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return shown


def cell_text(axes: Any, shown: Any, values: Any, form: str, size: float = 8, told: Any = None) -> None:
    """Write each value, or what is ``told`` in its place, into its cell, in black or white, whichever is seen better."""
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if value != value:  # NaN
                continue
            red, green, blue, _ = shown.cmap(shown.norm(value))
            ink = "#000001" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#fffffe"
            text = form.format(value if told is None else told[row][column])
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=size)


def _for_page(svg: str, name: str, width: float) -> str:
    """The ``svg`` element alone: with the page's colours, ids of its own, and the size that the page gives it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    for fixed, variable in COLOURS.items():
        svg = svg.replace(fixed, f"var(--{variable})")
    head, body = svg.split(">", 1)
    head = re.sub(r'\s(width|height|version|xmlns:xlink)="[^"]*"', "", head)
    head += f' style="max-width:{width:.0f}px"'
    body = body.replace("xlink:href=", "href=")
    return f'{head} aria-hidden="true" focusable="false">{body}'
