"""Training curves as SVG elements, drawn here so that a page needs no plotting library and no script."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from flows.reporting.sections import Curve, Point
from flows.reporting.words import number

WIDTH, HEIGHT = 330, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 32
_BUCKETS = 300  # horizontal resolution of a drawn line
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Line:
    """One curve of a plot: `split` chooses its colour."""

    label: str
    split: str
    points: Sequence[Point]

    @property
    def last(self) -> Point:
        return self.points[-1]


@dataclass(frozen=True)
class Plot:
    """Curves that share axes."""

    stage: str
    quantity: str
    lines: Sequence[Line]

    @property
    def can_be_log(self) -> bool:
        return all(point.value > 0 for line in self.lines for point in line.points)

    @property
    def better_log(self) -> bool:
        """Whether a linear axis would hide most of the curve: the values span more than a factor of 30."""
        values = [point.value for line in self.lines for point in line.points]
        return self.can_be_log and max(values) > 30 * min(values)


def plots(curves: Iterable[Curve]) -> list[Plot]:
    """One plot per stage and quantity in order of appearance; losses first within a stage.

    Values that are not finite cannot be drawn and are left out; a curve without any other value is left out whole.
    """
    grouped: dict[tuple[str, str], list[Line]] = {}
    for curve in curves:
        points = sorted((p for p in curve.points if math.isfinite(p.value)), key=lambda p: p.step)
        if not points:
            continue
        prefix, slash, rest = curve.name.partition("/")
        split = _SPLITS.get(prefix.lower(), "") if slash else ""
        quantity = rest if split else curve.name
        grouped.setdefault((curve.stage, quantity), []).append(Line(prefix if split else "", split, points))
    stages = list(dict.fromkeys(stage for stage, _ in grouped))
    found = [Plot(stage, quantity, lines) for (stage, quantity), lines in grouped.items()]
    return sorted(found, key=lambda p: (stages.index(p.stage), p.quantity != "loss", "loss" not in p.quantity))


def svg(plot: Plot, *, log: bool) -> Markup:
    """The plot as one `<svg>` element; colours come from the page's style sheet."""
    steps = [point.step for line in plot.lines for point in line.points]
    values = [point.value for line in plot.lines for point in line.points]
    x_axis = Axis.around(min(steps), max(steps), (_LEFT, WIDTH - _RIGHT), log=False, padding=0.0)
    y_axis = Axis.around(min(values), max(values), (HEIGHT - _BOTTOM, _TOP), log=log, padding=0.04)
    parts = [_grid(x_axis, y_axis), *(_drawn(line, x_axis, y_axis) for line in plot.lines)]
    ends = ", ".join(f"{line.label or plot.quantity} ends at {number(line.last.value)}" for line in plot.lines)
    scale = "logarithmic" if log else "linear"
    label = f"{plot.stage}: {plot.quantity} over {len(set(steps))} steps on a {scale} scale; {ends}"
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )


@dataclass(frozen=True)
class Axis:
    """Values laid on pixels `start` to `end`, evenly or by their logarithm (then `low` and `high` are exponents)."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def around(cls, low: float, high: float, pixels: tuple[float, float], *, log: bool, padding: float) -> "Axis":
        if log:
            low, high = math.log10(low), math.log10(high)
        margin = padding * (high - low)
        low, high = low - margin, high + margin
        # A constant is drawn in the middle of an axis of some length.
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            pad = 0.5 if log else 0.5 * abs(low) or 0.5
            low, high = low - pad, high + pad
        return cls(low, high, *pixels, log)

    def __call__(self, value: float) -> float:
        position = (math.log10(value) if self.log else value) - self.low
        return self.start + position / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        return _decades(self.low, self.high) if self.log else _round_steps(self.low, self.high, count)


def _round_steps(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside [low, high], about `count` of them."""
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Round values inside [10^low, 10^high]: powers of ten, with 2 and 5 between them where there are few."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    span = high - low
    if span > 2.5:
        every = max(1, round(span / 6))
        marks = [10.0**k for k in decades if k % every == 0]
    else:
        marks = [m * 10.0**k for k in decades for m in (1, 2, 5)]
    inside = [mark for mark in marks if low <= math.log10(mark) <= high]
    # Less than a third of a decade: no round power in sight, an even division reads better.
    return inside if len(inside) > 1 else _round_steps(10**low, 10**high, 4)


def _grid(x_axis: Axis, y_axis: Axis) -> Markup:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for tick in y_axis.ticks(5):
        y = round(y_axis(tick), 1)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 7}" y="{y + 3.5}" text-anchor="end">{tick_text(tick)}</text>'
        )
    for tick in x_axis.ticks(5):
        if tick != int(tick):
            continue
        x = round(x_axis(tick), 1)
        parts.append(
            f'<line class="tick" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>'
            f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{tick_text(tick)}</text>'
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text class="axis-name" x="{right}" y="{HEIGHT - 3}" text-anchor="end">step</text>')
    return Markup("".join(parts))


def tick_text(tick: float) -> str:
    """The label of a tick: `25k` rather than `25000`, and no digits that come from rounding."""
    text = f"{tick / 1000:g}k" if 10_000 <= abs(tick) < 1e6 else f"{tick:g}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if tick < 0 else text


def _drawn(line: Line, x_axis: Axis, y_axis: Axis) -> Markup:
    """A dense curve as a faint band of its extremes with its running mean; a sparse one as a line with dots."""
    name = escape(line.split or "only")
    if len(line.points) == 1:
        return Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"/>').format(
            name, round(x_axis(line.last.step), 1), round(y_axis(line.last.value), 1)
        )
    if len(line.points) <= 60:
        dots = Markup("").join(
            Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.2"><title>step {}: {}</title></circle>').format(
                name, round(x_axis(p.step), 1), round(y_axis(p.value), 1), p.step, number(p.value)
            )
            for p in line.points
        )
        return _path(line.points, x_axis, y_axis, f"line {name}") + dots
    return _path(_thinned(line.points), x_axis, y_axis, f"line raw {name}") + _path(
        _thinned(_smoothed(line.points, log=y_axis.log)), x_axis, y_axis, f"line {name}"
    )


def _path(points: Sequence[Point], x_axis: Axis, y_axis: Axis, name: str) -> Markup:
    route = "L".join(f"{x_axis(p.step):.1f} {y_axis(p.value):.1f}" for p in points)
    return Markup('<path class="{}" d="M{}"/>').format(name, route)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most two points, the lowest and the highest, of each of 300 equal stretches: peaks stay visible."""
    if len(points) <= 2 * _BUCKETS:
        return list(points)
    kept: list[Point] = []
    for k in range(_BUCKETS):
        stretch = points[k * len(points) // _BUCKETS : (k + 1) * len(points) // _BUCKETS]
        ends = {min(stretch, key=lambda p: p.value), max(stretch, key=lambda p: p.value)}
        kept.extend(sorted(ends, key=lambda p: p.step))
    return kept


def _smoothed(points: Sequence[Point], *, log: bool) -> list[Point]:
    """Mean of each point's neighbourhood, a thirtieth of the curve to either side; of the logarithms on a log axis."""
    values = [math.log(p.value) if log else p.value for p in points]
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    reach = max(1, len(points) // 30)
    smooth = []
    for k, point in enumerate(points):
        # The window stays centred at the beginning, where it would flatten the first steep fall; at the end it is cut.
        first, last = k - min(reach, k), k + min(reach, k, len(points) - 1 - k)
        mean = (sums[last + 1] - sums[first]) / (last + 1 - first)
        smooth.append(Point(point.step, math.exp(mean) if log else mean))
    return smooth
