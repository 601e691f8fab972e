"""Small plots as SVG source, in colours that read on light and on dark paper."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 96, 16, 46
STYLE = (
    "<style>text{font:13px system-ui,sans-serif;fill:#5b666d}.l{fill:none;stroke-width:2.5}"
    ".g{stroke:#8b959b;stroke-opacity:.3}.f{stroke:#8b959b;stroke-dasharray:5 4;stroke-width:1.5}"
    ".t{fill:none;stroke:#8b959b;stroke-width:1.5}"
    "@media(prefers-color-scheme:dark){text{fill:#a3adb1}}</style>"
)
NAME_HEIGHT = 14
COLOURS = ("#17809f", "#c2611f", "#6b4fa0", "#3b7d3f", "#a8344e", "#7a6a1f")


@dataclass
class Plot:
    """A plot with linear axes that is filled mark by mark; `svg` gives the picture."""

    x: tuple[float, float]
    """Least and greatest value across."""
    y: tuple[float, float]
    width: int = WIDTH
    height: int = HEIGHT
    right: int = RIGHT
    """Room for names at the ends of lines."""
    parts: list[str] = field(default_factory=list)
    names: list[tuple[float, float, str, str]] = field(default_factory=list)
    """Of lines: y and x of the end, name, colour."""

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies, in pixels from the upper left corner."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        return LEFT + across * (self.width - LEFT - self.right), self.height - BOTTOM - up * (
            self.height - TOP - BOTTOM
        )

    def grid(self, label: str, marks: Sequence[tuple[float, str]]) -> None:
        """Lines across at round values, `marks` (value and text) below, and what the axis across counts."""
        for value in ticks(*self.y):
            _, y = self.at(self.x[0], value)
            self.parts.append(f'<line class="g" x1="{LEFT}" x2="{self.width - self.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
        for value, text in marks:
            x, _ = self.at(value, self.y[0])
            self.parts.append(
                f'<text x="{x:.1f}" y="{self.height - BOTTOM + 20}" text-anchor="middle">{escape(text)}</text>'
            )
        middle = (LEFT + self.width - self.right) / 2
        self.parts.append(f'<text x="{middle}" y="{self.height - 8}" text-anchor="middle">{escape(label)}</text>')

    def line(
        self, xs: Sequence[float], ys: Sequence[float], colour: str, name: str = "", *, quiet: bool = False
    ) -> None:
        """A line through the finite points, broken where others lie between, with its name at the end."""
        end: tuple[float, float] | None = None
        for piece in _pieces(xs, ys):
            places = [self.at(x, y) for x, y in piece]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            kind = 'class="t"' if quiet else f'class="l" stroke="{colour}"'
            self.parts.append(f'<polyline {kind} points="{path}"/>')
            end = places[-1]
        if name and end is not None:
            self.names.append((end[1], end[0], name, colour))

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> None:
        """The area between two lines, where both are finite."""
        points = [(x, a, b) for x, a, b in zip(xs, low, high, strict=True) if math.isfinite(a) and math.isfinite(b)]
        if len(points) < 2:
            return
        outline = [self.at(x, b) for x, _, b in points] + [self.at(x, a) for x, a, _ in reversed(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
        self.parts.append(f'<polygon points="{path}" fill="{colour}" fill-opacity=".18" stroke="none"/>')

    def level(self, y: float, name: str) -> None:
        """A dashed line across, such as a floor, with its name."""
        _, place = self.at(self.x[0], y)
        end = self.width - self.right
        self.parts.append(f'<line class="f" x1="{LEFT}" x2="{end}" y1="{place:.1f}" y2="{place:.1f}"/>')
        self.parts.append(f'<text x="{end + 8}" y="{place + 4:.1f}">{escape(name)}</text>')

    def _write_names(self) -> None:
        """The names of lines at their ends, moved down where they would cover each other."""
        lowest = -math.inf
        for y, x, name, colour in sorted(self.names):
            lowest = max(y, lowest + NAME_HEIGHT)
            self.parts.append(f'<text x="{x + 8:.1f}" y="{lowest + 4:.1f}" style="fill:{colour}">{escape(name)}</text>')
        self.names = []

    def svg(self) -> str:
        self._write_names()
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}">'
        return head + STYLE + "".join(self.parts) + "</svg>"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough)
    first = math.ceil(low / step - 1e-9)
    return [step * k for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _pieces(xs: Sequence[float], ys: Sequence[float]) -> list[list[tuple[float, float]]]:
    found: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(y):
            found[-1].append((x, y))
        elif found[-1]:
            found.append([])
    return [piece for piece in found if piece]
