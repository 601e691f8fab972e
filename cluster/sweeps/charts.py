"""The charts of a sweep as SVG elements: lines that are one trial each, coloured by how well it did."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from flows.reporting.charts import Axis, tick_text

BEST, MIDDLE, WORST = (23, 128, 159), (146, 155, 160), (204, 110, 40)
"""Of trials by rank; they read on light and on dark paper."""
WIDTH, HEIGHT = 1072, 380
CROWD = 60
"""Lines beyond which they are drawn fainter."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 120, 14, 40
_STEP, _WIDEST = 134, 240  # least and most pixels between the axes of a parallel-coordinates plot
_UP, _DOWN = 62, 26  # above and below these axes


@dataclass(frozen=True)
class Key:
    """What varies: numbers from `low` to `high`, or the words of a choice."""

    log: bool = False
    limits: tuple[float, float] | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One trial as the charts show it."""

    name: str
    words: str
    """What is said of it under the pointer."""
    place: float | None
    """0 for the best, 1 for the worst of those that have a value; None without one."""
    points: Sequence[tuple[int, float]]
    """Step and metric."""
    values: Mapping[str, float | str]
    """Of what varies, by key; a text is one of a few choices."""
    metric: float | None


def colour(place: float | None) -> str:
    """From BEST over MIDDLE to WORST."""
    if place is None:
        return "var(--faint)"
    low, high, along = (BEST, MIDDLE, 2 * place) if place < 0.5 else (MIDDLE, WORST, 2 * place - 1)
    mixed = (round(a + along * (b - a)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def curves(lines: Sequence[Line], metric: str) -> Markup | None:
    """The metric of all trials over the optimizer steps; None where no trial has a value."""
    finite = {line.name: [(s, v) for s, v in line.points if math.isfinite(v)] for line in lines}
    values = [v for points in finite.values() for _, v in points]
    steps = [s for points in finite.values() for s, _ in points]
    if not values:
        return None
    log = min(values) > 0 and max(values) > 30 * min(values)
    x_axis = Axis.around(min(steps), max(steps), (_LEFT, WIDTH - _RIGHT), log=False, padding=0.0)
    y_axis = Axis.around(min(values), max(values), (HEIGHT - _BOTTOM, _TOP), log=log, padding=0.04)
    parts = [_frame(x_axis, y_axis, f"{metric}, logarithmic" if log else metric)]
    for line in _worst_first(lines):
        places = [(x_axis(s), y_axis(v)) for s, v in finite[line.name]]
        if not places:
            continue
        dots = Markup("").join(
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" fill="{}"/>').format(x, y, 3, colour(line.place))
            for x, y in (places if len(places) == 1 else places[-1:])
        )
        parts.append(_one(line, places, dots))
        if line.place == 0.0:
            x, y = places[-1]
            parts.append(Markup('<text class="name" x="{:.1f}" y="{:.1f}">{}</text>').format(x + 8, y + 4, line.name))
    label = f"{metric} of {len(lines)} trials over {max(steps)} steps"
    return _svg(WIDTH, HEIGHT, label, parts, crowded=len(lines) > CROWD)


def parallel(lines: Sequence[Line], keys: Mapping[str, Key], metric: str) -> Markup | None:
    """One axis per key that varies, the metric at the right, one line per trial; None without a trial."""
    drawn = [line for line in lines if line.values]
    if not drawn or not keys:
        return None
    height = HEIGHT + 20
    measured = [line.metric for line in drawn if line.metric is not None]
    axes: dict[str, Axis | dict[str, float]] = {}
    for name, key in keys.items():
        axes[name] = _scale(key, [line.values[name] for line in drawn if name in line.values], height)
    log = bool(measured) and min(measured) > 0 and max(measured) > 30 * min(measured)
    axes[metric] = _scale(Key(log), measured, height)
    step = min(_WIDEST, max(_STEP, (WIDTH - 168) / (len(axes) - 1)))
    across = {name: round(76 + k * step, 1) for k, name in enumerate(axes)}
    parts = []
    for line in _worst_first(drawn):
        places = [(across[key], _at(axes[key], line.values[key])) for key in keys if key in line.values]
        end = height - 10 if line.metric is None else _at(axes[metric], line.metric)
        parts.append(_one(line, [*places, (across[metric], end)], Markup(""), curved=True))
    for name, axis in axes.items():
        parts.append(_upright(name, axis, across[name], height))
    if any(line.metric is None for line in drawn):
        words = Markup('<text x="{}" y="{}">no value</text>').format(across[metric] + 9, height - 6)
        parts.append(words)
    width = max(WIDTH, across[metric] + 92)
    label = f"settings of {len(drawn)} trials, and their {metric}"
    return _svg(width, height, label, parts, crowded=len(drawn) > CROWD)


def bars(rows: Sequence[tuple[str, float, float, str]], label: str) -> Markup:
    """Rows of name, share and chance level in [0, 1], and a remark, as bars with a mark at what chance gives."""
    left, right, row = 300, 330, 30
    high = max(max(share, chance) for _, share, chance, _ in rows) or 1.0
    axis = Axis(0.0, min(1.0, 1.15 * high), left, WIDTH - right, log=False)
    height = 12 + row * len(rows) + 34
    parts = []
    for tick in axis.ticks(4):
        x = axis(tick)
        parts.append(Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="8" y2="{1}"/>').format(x, height - 34))
        words = Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{:.0f} %</text>')
        parts.append(words.format(x, height - 18, 100 * tick))
    for k, (name, share, chance, remark) in enumerate(rows):
        y = 12 + row * k
        sure = share > chance
        parts.append(
            Markup(
                '<g class="bar-row"><title>{}: {:.0f} %, by chance up to {:.0f} %</title>'
                '<text class="{}" x="{}" y="{}" text-anchor="end">{}</text>'
                '<rect x="{}" y="{}" width="{:.1f}" height="16" rx="3" fill="{}"/>'
                '<line x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}" stroke="var(--ink)" stroke-width="1.6"/>'
                '<text x="{}" y="{}">{}</text></g>'
            ).format(
                name, 100 * share, 100 * chance,
                "name" if sure else "", left - 10, y + 16, name,
                left, y + 3, axis(share) - left, colour(0.0) if sure else "var(--faint)",
                axis(chance), axis(chance), y, y + 22,
                WIDTH - right + 14, y + 16, remark,
            )
        )  # fmt: skip
    return _svg(WIDTH, height, label, parts)


def _worst_first(lines: Sequence[Line]) -> list[Line]:
    """So that the best is drawn over the others; trials without a value below all."""
    return sorted(lines, key=lambda line: (line.place is not None, -(line.place or 0.0)))


def _one(line: Line, places: Sequence[tuple[float, float]], marks: Markup, *, curved: bool = False) -> Markup:
    route = _bent(places) if curved else "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    kind = " quiet" if line.place is None else " best" if line.place == 0.0 else ""
    return Markup(
        '<g class="one{}"><title>{}</title><path class="wide" d="{}"/><path d="{}" stroke="{}"/>{}</g>'
    ).format(kind, line.words, route, route, colour(line.place), marks)


def _bent(places: Sequence[tuple[float, float]]) -> str:
    """Level at every axis, so that one sees at which value a line passes it."""
    route = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(places):
        third = (x1 - x0) / 3
        route += f"C{x0 + third:.1f} {y0:.1f} {x1 - third:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    return route


def _scale(key: Key, values: Sequence[float | str], height: int) -> Axis | dict[str, float]:
    """An axis for numbers, or the place of each of a few words."""
    low, high = height - _DOWN - 14, _UP
    words = [value for value in values if isinstance(value, str)]
    if key.words or words:
        words = sorted({*key.words, *words}, key=_in_order)
        gap = (low - high) / max(len(words) - 1, 1)
        return {word: (low - gap * k if len(words) > 1 else (low + high) / 2) for k, word in enumerate(words)}
    numbers = [*(float(value) for value in values), *(key.limits or ())] or [0.0, 1.0]
    return Axis.around(min(numbers), max(numbers), (low, high), log=key.log and min(numbers) > 0, padding=0.0)


def _in_order(word: str) -> tuple[bool, float, str]:
    """Numbers among choices by their size."""
    try:
        return (False, float(word), word)
    except ValueError:
        return (True, 0.0, word)


def _at(axis: Axis | dict[str, float], value: float | str) -> float:
    return axis[str(value)] if isinstance(axis, dict) else axis(float(value))


def _upright(name: str, axis: Axis | dict[str, float], x: float, height: int) -> Markup:
    """One axis with its marks, and its name in two lines above."""
    first, _, last = name.rpartition(".")
    bottom = height - _DOWN - 14
    parts = [
        Markup('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x, _UP, bottom),
        Markup('<text class="axis-name" x="{}" y="18" text-anchor="middle">{}</text>').format(x, _cut(first)),
        Markup('<text class="name" x="{}" y="34" text-anchor="middle">{}<title>{}</title></text>').format(
            x, _cut(last), name
        ),
    ]
    marks = axis if isinstance(axis, dict) else {tick_text(tick): axis(tick) for tick in axis.ticks(5)}
    for text, y in marks.items():
        parts.append(
            Markup(
                '<line class="tick" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text class="on-line" x="{}" y="{:.1f}">{}<title>{}</title></text>'
            ).format(x - 4, x + 4, y, y, x + 7, y + 3.5, _cut(text, 12), text)
        )
    return Markup("").join(parts)


def _cut(text: str, most: int = 19) -> str:
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _frame(x_axis: Axis, y_axis: Axis, name: str) -> Markup:
    """Grid, marks and names of a chart over steps."""
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for tick in y_axis.ticks(6):
        y = round(y_axis(tick), 1)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, right, y, y))
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(_LEFT - 8, y + 3.5, tick_text(tick))
        )
    for tick in x_axis.ticks(8):
        if tick == int(tick):
            x = round(x_axis(tick), 1)
            parts.append(
                Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x, bottom + 18, tick_text(tick))
            )
    parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, right, bottom, bottom))
    middle = (_LEFT + right) / 2
    parts.append(
        Markup('<text class="axis-name" x="{}" y="{}" text-anchor="middle">optimizer step</text>').format(
            middle, HEIGHT - 4
        )
    )
    parts.append(
        Markup(
            '<text class="axis-name" transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>'
        ).format((_TOP + bottom) / 2, name)
    )
    return Markup("").join(parts)


def _svg(width: float, height: float, label: str, parts: Sequence[Markup], *, crowded: bool = False) -> Markup:
    kind = "crowded" if crowded else ""
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, label, Markup("").join(parts)
    )
