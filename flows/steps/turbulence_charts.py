"""Charts of a turbulence report as SVG source."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from flows.reporting.drawing import BOTTOM, COLOURS, LEFT, NAME_HEIGHT, TOP, Plot, ticks

WIDTH, HEIGHT, ROOM = 620, 330, 170
"""Pixels; ROOM is for the names at the ends of lines."""
PALETTE = (*COLOURS, "#c04f8f", "#4668c5", "#6f8a96")
PLAIN = (
    "<style>.r{fill:none;stroke:#1c2226;stroke-width:2}.rf{fill:#1c2226}"
    "@media(prefers-color-scheme:dark){.r{stroke:#e6e9e8}.rf{fill:#e6e9e8}}</style>"
)
"""Of what models are held against: black on white paper, white on black."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Values over x, with a band around them where one is known."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    colour: str = ""
    """'' for what the models are held against."""
    half_width: Sequence[float] | np.ndarray | None = None
    """Of the band, in the units of y; NaN where unknown."""
    dashed: bool = False
    dots: bool = False
    """Draw points without a line between them."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis of a chart."""

    words: str
    log: bool = False
    least: float | None = None
    most: float | None = None
    """Ends of the axis; from the values where None."""

    def place(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Values as they are laid out: logarithms on a logarithmic axis, NaN for what has none."""
        array = np.asarray(values, np.float64)
        if not self.log:
            return np.where(np.isfinite(array), array, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(np.isfinite(array) & (array > 0), np.log10(array), np.nan)

    def ends(self, values: np.ndarray, margin: float) -> tuple[float, float]:
        """Of the axis, as laid out."""
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        pad = margin * (high - low) or (0.5 if self.log else 0.5 * abs(low) or 0.5)
        low, high = (low - pad, high + pad) if margin or high == low else (low, high)
        given = [math.nan if end is None else float(self.place([end])[0]) for end in (self.least, self.most)]
        return (low if math.isnan(given[0]) else given[0]), (high if math.isnan(given[1]) else given[1])

    def marks(self, low: float, high: float) -> list[tuple[float, str]]:
        """Round values between two laid-out ends, and their text."""
        if not self.log:
            return [(value, f"{value:.4g}".replace("-", "\N{MINUS SIGN}")) for value in ticks(low, high)]
        span = high - low
        steps = (1, 2, 5) if span < 1.7 else (1,)
        every = max(1, round(span / 6))
        found = [
            (math.log10(k * 10.0**decade), _power(k, decade))
            for decade in range(math.floor(low), math.ceil(high) + 1)
            if decade % every == 0
            for k in steps
        ]
        return [mark for mark in found if low - 1e-9 <= mark[0] <= high + 1e-9]


def chart(lines: Sequence[Line], *, across: Scale, up: Scale, level: tuple[float, str] | None = None) -> str:
    """Lines with their bands and names.

    Args:
        level: a dashed line across, with its name.
    """
    xs = np.concatenate([across.place(line.x) for line in lines] or [np.zeros(0)])
    ys = np.concatenate([up.place(line.y) for line in lines] or [np.zeros(0)])
    if level is not None:
        ys = np.append(ys, up.place([level[0]]))
    plot = _plot(across.ends(xs, 0.0), up.ends(ys, 0.05))
    _axes(plot, across, up)
    if level is not None:
        _level(plot, float(up.place([level[0]])[0]), level[1])
    # What the models are held against lies under them.
    for line in sorted(lines, key=lambda one: bool(one.colour)):
        _draw(plot, line, across, up)
    _spread_names(plot)
    return plot.svg()


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A named point."""

    name: str
    x: float
    y: float
    colour: str = ""
    half_width: float = math.nan
    """Of the bar up and down, in the units of y."""


def points_chart(marks: Sequence[Mark], *, across: Scale, up: Scale, level: tuple[float, str] | None = None) -> str:
    """Named points with their bars; those without a finite place are left out."""
    there = [mark for mark in marks if np.isfinite([*across.place([mark.x]), *up.place([mark.y])]).all()]
    ys = [mark.y for mark in there] + ([level[0]] if level else [])
    plot = _plot(across.ends(across.place([mark.x for mark in there]), 0.08), up.ends(up.place(ys), 0.08))
    _axes(plot, across, up)
    if level is not None:
        _level(plot, float(up.place([level[0]])[0]), level[1])
    for mark in there:
        at_x, at_y = float(across.place([mark.x])[0]), float(up.place([mark.y])[0])
        x, y = plot.at(at_x, at_y)
        stroke, fill = _inks(mark.colour)
        if math.isfinite(mark.half_width):
            low, high = (float(up.place([max(mark.y + side * mark.half_width, 1e-300)])[0]) for side in (-1, 1))
            (_, top), (_, bottom) = (plot.at(at_x, min(max(end, plot.y[0]), plot.y[1])) for end in (high, low))
            plot.parts.append(f'<line {stroke} x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        plot.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {fill}/>')
        plot.names.append((y, x + 2, mark.name, mark.colour))
    _spread_names(plot)
    return plot.svg()


def _plot(x: tuple[float, float], y: tuple[float, float]) -> Plot:
    plot = Plot(x, y, WIDTH, HEIGHT, ROOM)
    left, right, bottom = LEFT - 2, WIDTH - ROOM + 2, HEIGHT - BOTTOM + 2
    window = f'<rect x="{left}" y="{TOP - 2}" width="{right - left}" height="{bottom - TOP + 2}"/>'
    plot.parts += [PLAIN, f'<clipPath id="w">{window}</clipPath>']
    return plot


def _axes(plot: Plot, across: Scale, up: Scale) -> None:
    right, bottom = plot.width - plot.right, plot.height - BOTTOM
    for value, text in up.marks(*plot.y):
        _, y = plot.at(plot.x[0], value)
        text = text if y > TOP + 10 else ""  # the axis' name is there
        plot.parts.append(f'<line class="g" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        plot.parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in across.marks(*plot.x):
        x, _ = plot.at(value, plot.y[0])
        plot.parts.append(f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        plot.parts.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{text}</text>')
    middle = (LEFT + right) / 2
    plot.parts.append(f'<text x="{middle}" y="{plot.height - 8}" text-anchor="middle">{escape(across.words)}</text>')
    plot.parts.append(f'<text x="{LEFT - 48}" y="{TOP - 3}">{escape(up.words)}</text>')


def _level(plot: Plot, y: float, name: str) -> None:
    """A dashed line across; its name stands among the others, so that none covers another."""
    plot.level(y, "")
    plot.names.append((plot.at(plot.x[0], y)[1], plot.width - plot.right, name, ""))


def _draw(plot: Plot, line: Line, across: Scale, up: Scale) -> None:
    span = plot.y[1] - plot.y[0]
    x, y = across.place(line.x), np.clip(up.place(line.y), plot.y[0] - 50 * span, plot.y[1] + 50 * span)
    x = np.where((x >= plot.x[0] - 1e-9) & (x <= plot.x[1] + 1e-9), x, np.nan)
    if line.half_width is not None:
        width = np.asarray(line.half_width, np.float64)
        low = up.place(np.asarray(line.y) - width)
        if up.log:  # a band that reaches to zero reaches the end of the axis
            low = np.where(np.isnan(low) & np.isfinite(width), plot.y[0], low)
        edges = [np.clip(edge, *plot.y) for edge in (low, up.place(np.asarray(line.y) + width))]
        plot.band(x.tolist(), edges[0].tolist(), edges[1].tolist(), line.colour or "#8b959b")
    stroke, fill = _inks(line.colour)
    ends = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not ends:
        return
    inside = [end for end in ends if plot.y[0] <= end[1] <= plot.y[1]]
    if line.dots:
        spots = [plot.at(*end) for end in inside]
        plot.parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" {fill}/>' for a, b in spots]
    for piece in np.ma.clump_unmasked(np.ma.masked_invalid(x + y)) if not line.dots else ():
        path = " ".join("{:.1f},{:.1f}".format(*plot.at(a, b)) for a, b in zip(x[piece], y[piece], strict=True))
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        plot.parts.append(f'<polyline {stroke}{dash} clip-path="url(#w)" points="{path}"/>')
    if line.name:
        # A line that leaves the chart has its name where it was seen last.
        a, b = plot.at(*(inside or ends)[-1])
        # Near the right side names stand in one column, beside the chart.
        right = plot.width - plot.right
        plot.names.append((b, right if a > LEFT + 0.75 * (right - LEFT) else a, line.name, line.colour))


def _inks(colour: str) -> tuple[str, str]:
    """Attributes of a stroke and of a filling."""
    if colour:
        return f'class="l" stroke="{colour}"', f'fill="{colour}"'
    return 'class="r"', 'class="rf"'


def _spread_names(plot: Plot) -> None:
    """Move names up where those below would push them out of the chart, which writes them from the top down."""
    highest = plot.height - BOTTOM + 4.0
    moved = []
    for y, x, name, colour in sorted(plot.names, reverse=True):
        highest = min(max(y, TOP + 8.0), highest)
        moved.append((max(highest, TOP + 8.0), x, name, colour))
        highest -= NAME_HEIGHT
    plot.names = moved


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(k: int, decade: int) -> str:
    if -3 <= decade <= 3:
        return f"{k * 10.0**decade:g}"
    ten = "10" + str(decade).translate(_RAISED)
    return ten if k == 1 else f"{k}·{ten}"
