"""What a report draws and writes, as plain data: panels of charts, tables, sections, and the colours of methods.

Nothing here needs matplotlib; charts.py draws panels, write.py and page.py write sections.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

# The Okabe–Ito palette (Okabe and Ito 2008), made for all kinds of colour vision; orange, green, pink and sky are
# darkened for white paper and all are lightened for dark, so that each has a contrast of 3:1 or more (WCAG 1.4.11).
# Values within a theme are unique: the page replaces the light ones by CSS variables of the role's name.
LIGHT = {
    "surface": "#fefefe", "ink": "#1b1f24", "muted": "#57606a", "grid": "#d8dee4",
    "blue": "#0072b2", "vermilion": "#d55e00", "green": "#00875f", "orange": "#a86f00",
    "pink": "#b5588a", "sky": "#2a86bd", "slate": "#6e5fa8", "grey": "#6b7078",
}  # fmt: skip
DARK = {
    "surface": "#15191e", "ink": "#e8ebee", "muted": "#a5adb6", "grid": "#363d46",
    "blue": "#5cb0ec", "vermilion": "#ff8b4d", "green": "#2fce9f", "orange": "#f2b53a",
    "pink": "#e59cc7", "sky": "#8ad2f7", "slate": "#b8a9f2", "grey": "#9aa1a9",
}  # fmt: skip
SERIES = ("blue", "vermilion", "green", "orange", "pink", "sky", "slate", "grey")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
DASHES = ("-", "--", "-.", ":")

# A method looks the same in every chart of every report: colour and marker, never colour alone.
STYLES = {
    "auto": ("blue", "o"),
    "auto-no-top-k": ("sky", "h"),
    "paper": ("vermilion", "s"),
    "off": ("grey", "d"),
    "llama-cpp": ("slate", "D"),
    "prompt-lookup": ("orange", "^"),
    "llama-cpp-lookup": ("orange", "^"),
    "draftretriever": ("green", "v"),
    "suffix": ("pink", "P"),
    "server": ("sky", "X"),
    "ngram-simple": ("sky", "<"),
    "ngram-map-k": ("green", ">"),
    "ngram-map-k4v": ("pink", "p"),
    "ngram-mod": ("vermilion", "h"),
    "ngram-cache": ("orange", "*"),
}


def style_of(method: str) -> tuple[str, str]:
    """Colour role and marker of a method. A name not known here gets a fixed one from its letters."""
    if method in STYLES:
        return STYLES[method]
    known = [name for name in STYLES if method.endswith(name)]  # server-ngram-mod, llama-server:ngram-mod
    if known:
        return STYLES[max(known, key=len)]
    number = zlib.crc32(method.encode())
    return SERIES[number % len(SERIES)], MARKERS[number // len(SERIES) % len(MARKERS)]


FEWEST = 20  # nodes proposed at a depth, or in a bin: fewer say nothing about a rate
WIDE = 6  # largest over smallest ratio from which an axis of ratios doubles instead of adding


@dataclass(frozen=True)
class Dot:
    """A figure with its interval; ``hollow`` tells the first of two phases from the second."""

    value: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False


@dataclass(frozen=True)
class DotRow:
    """One line of a dot plot: up to two dots of one method."""

    label: str
    method: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Dots:
    """A dot plot: methods downwards, a figure to the right.

    Attributes:
        reference: where a line is drawn, 1.0 for ratios.
        limits: of the axis, shared by the panels of a chart; None takes the panel's own.
    """

    title: str
    rows: tuple[DotRow, ...]
    axis: str
    reference: float | None = None
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """A line; ``marked`` are the x drawn with a filled sign, None marks every point.

    ``style`` is a method, or a number for lines that are no methods.
    """

    label: str
    style: str | int
    x: tuple[float, ...]
    y: tuple[float, ...]
    marked: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Lines:
    """A line chart. ``doubling``: both axes are logarithmic with ticks at powers of two."""

    title: str
    lines: tuple[Line, ...]
    x_axis: str
    y_axis: str
    doubling: bool = False
    y_limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Reliability:
    """Predicted against observed hit rate; ``bins`` are (predicted, observed, count)."""

    title: str
    method: str
    bins: tuple[tuple[float, float, int], ...]
    ece: float | None = None


Panel = Dots | Lines | Reliability


@dataclass(frozen=True)
class Chart:
    """Panels that belong together. ``key`` names the files and the anchor: letters, digits and hyphens."""

    key: str
    title: str
    description: str
    panels: tuple[Panel, ...]
    legend: tuple[str, str] | None = None  # what a hollow and a filled dot mean


@dataclass(frozen=True)
class Table:
    """A table of text; the first column heads its rows. Numbers come formatted."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A kind of result, or one file's origin: sentences, charts, tables."""

    key: str
    title: str
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = field(default=())
