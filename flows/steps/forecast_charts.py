"""Pictures of a forecast report as SVG source."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from flows.reporting.drawing import COLOURS, LEFT, TOP, Plot, ticks

ROW = 26
"""Pixels per row of a bar chart."""


def fan_chart(
    history: np.ndarray,
    quantiles: np.ndarray,
    levels: Sequence[float],
    stamps: Sequence[str],
    truth: np.ndarray | None = None,
) -> str:
    """What was measured, the median ahead, and the interval of each pair of quantiles around it.

    history [step], quantiles [horizon, level] at `levels`, truth [horizon] where it is known; NaN is left out. `stamps`
    name the first step, the origin and the last step.
    """
    back, ahead = len(history), len(quantiles)
    shown = np.concatenate([history, quantiles.ravel(), np.array([]) if truth is None else truth])
    shown = shown[np.isfinite(shown)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.5
    plot = Plot((-back, ahead - 1), (low - margin, high + margin), right=24)
    marks = [(-back, stamps[0]), (0, stamps[1])]
    if ahead > 0.4 * back:  # else the last two would cover each other
        marks.append((ahead - 1, stamps[2]))
    plot.grid("", marks)
    steps = list(range(ahead))
    for k in range(len(levels) // 2):
        plot.band(steps, quantiles[:, k].tolist(), quantiles[:, -1 - k].tolist(), COLOURS[0])
    plot.line(list(range(-back, 0)), history.tolist(), "", quiet=True)
    if truth is not None:
        plot.line(steps, truth.tolist(), "", quiet=True)
    middle = int(np.argmin(np.abs(np.asarray(levels) - 0.5)))
    plot.line(steps, quantiles[:, middle].tolist(), COLOURS[0])
    return plot.svg()


def gap_chart(measured: np.ndarray, filled: np.ndarray, first: int) -> str:
    """A series [step] from step `first` on: what was measured in grey, what fills its gaps in colour."""
    shown = filled[np.isfinite(filled)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.5
    steps = list(range(first, first + len(measured)))
    plot = Plot((first, max(steps[-1], first + 1)), (low - margin, high + margin), right=24)
    plot.grid("step", [(value, f"{value:g}") for value in ticks(*plot.x)])
    plot.line(steps, filled.tolist(), COLOURS[0])
    plot.line(steps, measured.tolist(), "", quiet=True)
    return plot.svg()


def horizon_chart(
    lines: Mapping[str, Sequence[float]], *, floor: tuple[str, float] | None = None, from_zero: bool = True
) -> str:
    """A quantity of several models over the steps ahead."""
    values = [value for line in lines.values() for value in line if np.isfinite(value)]
    values += [floor[1]] if floor else []
    low = 0.0 if from_zero else min(values, default=0.0)
    high = max(values, default=1.0)
    margin = 0.06 * (high - low) or 0.5
    steps = max((len(line) for line in lines.values()), default=1)
    plot = Plot((1, steps), (low if from_zero else low - margin, high + margin))
    plot.grid("steps ahead", [(value, f"{value:g}") for value in ticks(1, steps) if value >= 1])
    if floor:
        plot.level(floor[1], floor[0])
    for (name, line), colour in zip(lines.items(), COLOURS, strict=False):
        plot.line(range(1, len(line) + 1), list(line), colour, name)
    return plot.svg()


def skill_chart(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Skill of each model (name, value, low, high) as a point with its error bar; 0 is the floor."""
    ends = [0.0, *(value for _, *values in rows for value in values if np.isfinite(value))]
    low, high = min(ends), max(ends)
    margin = 0.08 * (high - low) or 0.5
    plot = Plot((low - margin, high + margin), (0, 1), height=TOP + 46 + ROW * len(rows), right=24)
    width = plot.width
    for value in ticks(*plot.x):
        x, _ = plot.at(value, 0)
        bottom = plot.height - 46
        plot.parts.append(f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        plot.parts.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{value:.3g}</text>')
    zero, _ = plot.at(0, 0)
    plot.parts.append(f'<line class="f" x1="{zero:.1f}" x2="{zero:.1f}" y1="{TOP}" y2="{plot.height - 46}"/>')
    for k, (name, value, least, most) in enumerate(rows):
        y, colour = TOP + ROW * (k + 0.5), COLOURS[0] if least > 0 else COLOURS[1] if most < 0 else "#8b959b"
        (x, _), (a, _), (b, _) = plot.at(value, 0), plot.at(least, 0), plot.at(most, 0)
        plot.parts.append(f'<line class="l" stroke="{colour}" x1="{a:.1f}" x2="{b:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        plot.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>')
        side, place = ("end", a - 8) if a > LEFT + 0.5 * (width - LEFT) else ("start", b + 8)
        plot.parts.append(f'<text x="{place:.1f}" y="{y + 4:.1f}" text-anchor="{side}">{escape(name)}</text>')
    middle, words = (LEFT + width) / 2, "share of the floor's square error that is saved"
    plot.parts.append(f'<text x="{middle}" y="{plot.height - 6}" text-anchor="middle">{words}</text>')
    return plot.svg()
