"""Pictures of a protein report as SVG source, in colours that read on light and on dark paper."""

import math
from collections.abc import Mapping, Sequence

from flows.reporting.drawing import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, STYLE, TOP, WIDTH


def few_steps_chart(
    lines: Mapping[str, Sequence[tuple[int, float]]], floor: float | None, floor_name: str = "floor"
) -> str:
    """A quantity over the number of network calls (logarithmic), one line per model, its floor dashed."""
    points = [point for line in lines.values() for point in line]
    low, high = math.log(min(x for x, _ in points)), math.log(max(x for x, _ in points))
    top = 1.1 * max(*(y for _, y in points), floor or 0.0) or 1.0
    decimals = max(2, 1 - math.floor(math.log10(top)))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - low) / ((high - low) or 1.0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">{STYLE}']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, y = at(math.exp(low), share * top)
        parts.append(f'<line class="g" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share * top:.{decimals}f}</text>')
    for calls in sorted({x for x, _ in points}):
        x, _ = at(calls, 0)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{calls}</text>')
    if floor is not None:
        _, y = at(math.exp(low), floor)
        parts.append(f'<line class="f" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{y + 4:.1f}">{floor_name}</text>')
    for (name, line), colour in zip(lines.items(), COLOURS, strict=False):
        places = [at(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="l" stroke="{colour}" points="{path}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places]
        x, y = places[-1]
        parts.append(f'<text x="{x + 10:.1f}" y="{y + 4:.1f}" style="fill:{colour}">{name}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">network calls per backbone</text></svg>')
    return "".join(parts)
