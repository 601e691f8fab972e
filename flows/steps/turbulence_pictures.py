"""Pictures of flow fields: planes cut out of them, side by side at some times, and moving."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from html import escape
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from scipy.interpolate import CubicSpline

from data.grid import Axis, Grid
from flows.reporting.drawing import STYLE
from flows.reporting.snapshot import palette_png

LONGEST = 96
"""Points along the longer side of a picture; browsers smooth it to the size at which it is shown."""
LEVELS = 121
"""Colours from the least value to the greatest; an odd number, so that zero has its own."""
BLANK = LEVELS
"""Position in the palette of what has no finite value."""
NEAR_WALL = 15.0
"""Height in wall units at which streaks are shown."""
GAP, NAME, HEAD, FOOT = 10, 118, 26, 34
"""Pixels between pictures, for names beside them, above them, and for the scale of colours below."""
PAGE, MARGIN = 1040, 12
"""Pixels: the width in which all is laid out, so that letters are of one size, and what is left free around it."""
SECONDS = 0.12
"""For how long a frame of the film stands."""
FILM_BYTES = 1_400_000
"""Most that all frames of the film take as PNG: in the page they are wrapped twice in base64, so 2.5 MB."""


@dataclass(frozen=True)
class View:
    """A plane of a field and the quantity that is shown in it."""

    grid: Grid
    across: int
    """Position of the axis to the right."""
    up: int
    level: int | None
    """Point on the remaining axis where the plane lies; None for a field in a plane."""
    components: tuple[str, ...]
    shows: Literal["scalar", "fluctuation", "vorticity"]
    """A component of that name, the first velocity without its mean over the plane, or the curl of the velocity."""
    words: str

    @property
    def axes(self) -> tuple[Axis, Axis]:
        return self.grid.axes[self.across], self.grid.axes[self.up]

    @cached_property
    def resampling(self) -> tuple[Float[np.ndarray, "row up"], Float[np.ndarray, "column across"]]:
        """Matrices from the points of the plane to square pixels, the uppermost row first."""
        right, up = self.axes
        scale = LONGEST / max(right.length, up.length)
        columns, rows = (max(round(scale * axis.length), 2) for axis in (right, up))
        return np.ascontiguousarray(_resampling(up, rows)[::-1]), _resampling(right, columns)

    def plane(self, frame: Float[np.ndarray, "*grid component"]) -> Float[np.ndarray, "across up"]:
        """The quantity in the plane, from one frame."""
        if self.level is not None:
            (normal,) = {0, 1, 2} - {self.across, self.up}
            frame = frame.take(self.level, axis=normal)
        frame = np.asarray(frame, np.float64)
        right, up = self.axes
        if self.shows == "scalar":
            return frame[..., self.components.index(self.words)]
        first = frame[..., self.components.index(f"velocity_{right.name}")]
        if self.shows == "fluctuation":
            with np.errstate(invalid="ignore", over="ignore"):  # of a run that has blown up
                return first - first.mean()
        second = frame[..., self.components.index(f"velocity_{up.name}")]
        with np.errstate(invalid="ignore", over="ignore"):
            return right.derivative @ second - first @ up.derivative.T


def view_of(grid: Grid, components: Sequence[str], wall_unit: float | None) -> View | None:
    """What is worth showing: vorticity in a plane, or the streaks of a flow along walls.

    Args:
        wall_unit: the viscous length; where it is unknown, streaks are shown at a twelfth of the half height.
    """
    names, known = grid.names, tuple(components)
    if len(names) == 2 and "vorticity" in known:
        return View(grid, 0, 1, None, known, "scalar", "vorticity")
    if len(names) not in (2, 3) or not {f"velocity_{name}" for name in names[:2]} <= set(known):
        return None
    walls = grid.walls
    if len(names) == 2:
        return View(grid, 0, 1, None, known, "vorticity", "vorticity")
    if walls is None:
        words = f"vorticity around {names[2]} in the plane {names[2]} = {grid.axes[2].points[0]:.3g}"
        return View(grid, 0, 1, 0, known, "vorticity", words)
    along, axis = grid.homogeneous, grid.axes[walls]
    height = NEAR_WALL * wall_unit if wall_unit else axis.length / 24
    level = max(int(np.argmin(np.abs(axis.points - axis.points[0] - height))), 1)
    found = float(axis.points[level] - axis.points[0])
    where = f"{names[walls]}+ = {found / wall_unit:.3g}" if wall_unit else f"{found:.3g} above the wall"
    words = f"fluctuation of velocity_{names[along[0]]} at {where}"
    return View(grid, along[0], along[1], level, known, "fluctuation", words)


def raster(view: View, plane: Float[np.ndarray, "across up"]) -> Float[np.ndarray, "row column"]:
    """The plane on square pixels, the first axis to the right and the second upwards; NaN where it is not finite."""
    rows, columns = view.resampling
    if not np.isfinite(plane).all():
        return np.full((len(rows), len(columns)), np.nan)
    return rows @ plane.T @ columns.T


def _resampling(axis: Axis, count: int) -> Float[np.ndarray, "pixel point"]:
    """Matrix from values at the points of an axis to values at the middles of `count` equal pixels."""
    places = (np.arange(count) + 0.5) / count * axis.length
    points = np.asarray(axis.points) - axis.points[0]
    identity = np.eye(len(points))
    if axis.periodic:
        closed = np.append(points, axis.length)
        return np.asarray(CubicSpline(closed, np.vstack([identity, identity[:1]]), bc_type="periodic")(places))
    return np.asarray(CubicSpline(points, identity)(places) if len(points) > 3 else _linear(points, places))


def _linear(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(places, points, row) for row in np.eye(len(points))], axis=1)


def colour_indices(values: Float[np.ndarray, "*any"], limit: float) -> UInt8[np.ndarray, "*any"]:
    """Positions in the palette of values from -limit to limit."""
    share = np.clip(np.nan_to_num(values / (limit or 1.0), nan=0.0), -1, 1)
    found = np.round((share + 1) / 2 * (LEVELS - 1)).astype(np.uint8)
    return np.where(np.isfinite(values), found, np.uint8(BLANK))


@cache
def palette() -> UInt8[np.ndarray, "colour 3"]:
    """From blue over nearly white to red, and grey last.

    Lightness falls evenly to both sides in Oklab (Ottosson 2020), so that equal steps of the value look equal and both
    signs look equally strong; hues are such that colour-blind eyes tell them apart.
    """
    along = np.linspace(-1, 1, LEVELS)
    strength = np.abs(along)
    lightness = 0.97 - 0.57 * strength
    chroma = 0.165 * np.sin(np.pi / 2 * np.minimum(1.35 * strength, 1)) * (1 - 0.18 * strength**3)
    hue = np.deg2rad(np.where(along < 0, 252.0, 32.0))
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack([
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    ], axis=1)  # fmt: skip
    linear = np.clip(linear, 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.concatenate([np.round(255 * shown), [[150.0, 150.0, 150.0]]]).astype(np.uint8)


def limit_of(pictures: Sequence[np.ndarray]) -> float:
    """A value that nearly all of the reference stays below: single peaks are not to make the rest pale."""
    values = np.concatenate([np.abs(one[np.isfinite(one)]) for one in pictures] or [np.ones(1)])
    return float(np.quantile(values, 0.995)) if values.size else 1.0


def side_by_side(
    rows: Mapping[str, Sequence[np.ndarray | None]], heads: Sequence[str], limit: float, words: str
) -> str:
    """Pictures in rows under common heads, as SVG; None leaves a place empty."""
    shape = next((one.shape for pictures in rows.values() for one in pictures if one is not None), (2, 2))
    width, height = _shown_size(shape, len(heads))
    parts = []
    for k, head in enumerate(heads):
        parts.append(_text(NAME + k * (width + GAP) + width / 2, HEAD - 9, head, "middle"))
    for j, (name, pictures) in enumerate(rows.items()):
        y = HEAD + j * (height + GAP)
        parts.append(_name(name, y + height / 2))
        for k, picture in enumerate(pictures):
            x = NAME + k * (width + GAP)
            if picture is None:
                parts.append(_empty(x, y, width, height))
                continue
            address = _address(palette_png(colour_indices(picture, limit), palette()))
            parts.append(_image(address, x, y, width, height))
    bottom = HEAD + len(rows) * (height + GAP)
    return _svg(bottom + FOOT, [*parts, *_scale(NAME, bottom + 4, limit, words)])


def film(panels: Mapping[str, Sequence[np.ndarray | None]], captions: Sequence[str], limit: float, words: str) -> str:
    """Pictures that change in step, as one SVG that needs no script.

    The frames of each panel stand above each other in one picture that style moves on behind a window, all by the same
    clock. Who wants no motion sees the first frame.

    Args:
        panels: by name, one picture per frame; None where there is none.
        captions: of the frames.
    """
    step = _thinning(panels, limit)
    captions = captions[::step]
    shape = next((one.shape for pictures in panels.values() for one in pictures if one is not None), (2, 2))
    rows = -(-len(panels) // (4 if shape[1] < 2 * shape[0] else 2))
    columns = -(-len(panels) // rows)
    width, height = _film_size(shape, columns)
    # Each frame has its border rows twice, so that smoothing does not let the next one shine in.
    tall = height * (shape[0] + 2) / shape[0]
    parts = [_motion(len(captions), tall)]
    for k, (name, pictures) in enumerate(panels.items()):
        x, y = (k % columns) * (width + GAP), HEAD + (k // columns) * (height + HEAD + GAP)
        strip = _address(palette_png(_strip(list(pictures)[::step], shape, limit), palette()))
        parts.append(_text(x, y - 8, name))
        parts.append(
            f'<svg x="{x}" y="{y}" width="{width}" height="{height}"><g transform="translate(0 '
            f'{-height / shape[0]:.4f})"><g class="film">'
            f'<image href="{strip}" width="{width}" height="{tall * len(captions):.4f}" '
            'preserveAspectRatio="none"/></g></g></svg>'
        )
    bottom, across = HEAD + rows * (height + HEAD + GAP) - GAP, columns * (width + GAP) - GAP
    lines = "".join(f'<text x="0" y="{20 * k + 14}">{escape(text)}</text>' for k, text in enumerate(captions))
    clock = f'<svg x="{across - 170}" y="{bottom}" width="170" height="20"><g class="clock">{lines}</g></svg>'
    return _svg(bottom + FOOT, [*parts, clock, *_scale(0, bottom, limit, words)])


def _motion(frames: int, tall: float) -> str:
    """Style that moves strips by one frame, and the clock by one line, every SECONDS."""
    timing = f"{SECONDS * frames:.2f}s steps({frames}) infinite"
    return (
        f"<style>.film{{animation:film {timing}}}.clock{{animation:clock {timing}}}"
        f"@keyframes film{{to{{transform:translateY({-tall * frames:.4f}px)}}}}"
        f"@keyframes clock{{to{{transform:translateY({-20 * frames}px)}}}}"
        "@media(prefers-reduced-motion:reduce){.film,.clock{animation:none}}</style>"
    )


def _strip(
    pictures: Sequence[np.ndarray | None], shape: tuple[int, ...], limit: float
) -> UInt8[np.ndarray, "row column"]:
    blank = np.full(shape, np.nan)
    frames = [colour_indices(blank if one is None else one, limit) for one in pictures]
    return np.concatenate([np.pad(frame, ((1, 1), (0, 0)), mode="edge") for frame in frames])


def _thinning(panels: Mapping[str, Sequence[np.ndarray | None]], limit: float) -> int:
    """Every how manieth frame is shown so that the film stays small: measured on some frames, which pack alike."""
    total = 0.0
    for pictures in panels.values():
        there = [one for one in pictures if one is not None]
        some = there[:: max(len(there) // 4, 1)][:4]
        if some:
            size = len(palette_png(_strip(some, some[0].shape, limit), palette()))
            total += size / len(some) * len(there)
    return max(int(np.ceil(total / FILM_BYTES)), 1)


def _shown_size(shape: tuple[int, ...], count: int) -> tuple[int, int]:
    width = min(200, (PAGE - NAME) // max(count, 1) - GAP)
    return width, max(round(width * shape[0] / shape[1]), 8)


def _film_size(shape: tuple[int, ...], columns: int) -> tuple[int, int]:
    width = min(340 if shape[1] < 2 * shape[0] else 500, (PAGE + GAP) // columns - GAP)
    return width, max(round(width * shape[0] / shape[1]), 8)


def _scale(x: float, y: float, limit: float, words: str) -> list[str]:
    """The colours and their values."""
    bar = np.tile(np.arange(LEVELS, dtype=np.uint8), (2, 1))
    ends = (_text(x, y + 14, f"\N{MINUS SIGN}{limit:.3g}"), _text(x + 186, y + 14, f"{limit:.3g}   {words}"))
    return [ends[0], _image(_address(palette_png(bar, palette())), x + 58, y + 4, 120, 11), ends[1]]


def _name(name: str, middle: float) -> str:
    """A name beside a row, over two lines where it is long."""
    words = name.split(" ")
    if len(name) <= 15 or len(words) == 1:
        return _text(0, middle + 4, name)
    cut = min(range(1, len(words)), key=lambda k: abs(len(" ".join(words[:k])) - len(name) / 2))
    return _text(0, middle - 4, " ".join(words[:cut])) + _text(0, middle + 12, " ".join(words[cut:]))


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _address(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"


def _image(address: str, x: float, y: float, width: float, height: float) -> str:
    return f'<image href="{address}" x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none"/>'


def _empty(x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="t" x="{x}" y="{y}" width="{width}" height="{height}" stroke-dasharray="4 4"/>'


def _svg(height: float, parts: Sequence[str]) -> str:
    box = f"{-MARGIN} {-MARGIN} {PAGE + 2 * MARGIN} {height + MARGIN:.0f}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">'
    return head + STYLE + "".join(parts) + "</svg>"
