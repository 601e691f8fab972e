"""Charts of the statistics of rollouts beside those of the simulation."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data.errors import PenstockError
from data.turbulence.blocks import Estimate
from data.turbulence.profiles import Profiles, wall_profiles
from data.turbulence.statistics import Statistics
from flows.report import Figure
from flows.steps.turbulence_charts import Line, Scale, chart
from flows.steps.turbulence_verdict import REFERENCE, words

KARMAN, INTERCEPT = 0.41, 5.2
"""Of the logarithmic law U+ = ln(y+) / KARMAN + INTERCEPT."""
LONGEST = 400
"""Points of a drawn line."""
FAINTEST = 1e-5
"""Densities below this share of the greatest are not drawn."""

Colours = Mapping[str, str]
"""Of every model, the same in all charts; '' for the simulation."""


def energy_figures(found: Mapping[str, Statistics], colours: Colours) -> list[Figure]:
    """Energy and enstrophy of the first trajectory over time, with the band that holds 95 % of the simulation's."""
    return [
        _over_time(found, colours, "energy", "energy, ½⟨u·u⟩", lambda s: s.series.energy),
        _over_time(found, colours, "enstrophy", "enstrophy, ½⟨ω·ω⟩", lambda s: s.series.enstrophy),
    ]


def _over_time(
    found: Mapping[str, Statistics],
    colours: Colours,
    name: str,
    label: str,
    values: Callable[[Statistics], np.ndarray],
) -> Figure:
    lines, ends = [], (math.nan, math.nan)
    last = max((float(s.series.time.max()) for s in found.values()), default=1.0)
    if REFERENCE in found:
        low, high = np.quantile(values(found[REFERENCE]), [0.025, 0.975])
        middle, half = (low + high) / 2, (high - low) / 2
        lines.append(Line(name="", x=[0.0, last], y=[math.nan] * 2))
        lines.append(Line(name="DNS", x=[0.0, last], y=[middle] * 2, half_width=[half] * 2))
        # A run that blows up is not to press all others into one line.
        reach = 6 * half or 0.5 * abs(middle) or 1.0
        ends = (max(middle - reach, 0.0), middle + reach)
    for model, statistics in found.items():
        if model == REFERENCE:
            continue
        first = statistics.series.trajectory == statistics.series.trajectory[0]
        time, value = statistics.series.time[first], values(statistics)[first]
        every = -(-len(time) // LONGEST)
        lines.append(Line(name=words(model), x=time[::every], y=value[::every], colour=colours[model]))
    shown = np.concatenate([np.asarray(line.y, float) for line in lines] or [np.zeros(1)])
    shown = shown[np.isfinite(shown)]
    given = [None if math.isnan(end) else end for end in ends]
    inside = shown.size and given[0] is not None and given[1] is not None
    if inside and given[0] <= shown.min() and shown.max() <= given[1]:
        given = [None, None]
    up = Scale(words=label, least=given[0], most=given[1])
    return Figure(image=chart(lines, across=Scale(words="time"), up=up), caption=f"{name.capitalize()} over time",
                  alt=f"{name} of every rollout over time")  # fmt: skip


def spectrum_figures(found: Mapping[str, Statistics], colours: Colours) -> list[Figure]:
    """Energy spectra: by shells where all directions are periodic, else along the walls at two heights."""
    some = next(iter(found.values()), None)
    if some is None:
        return []
    if "shell_spectrum" in some.blocks.means:
        spectra = {name: (s.shells, s.shell_spectrum) for name, s in found.items()}
        return [_spectrum_figure(spectra, colours, "Kinetic energy by wavenumber", "k")]
    figures = []
    for level in sorted({min(1, len(some.heights) - 1), len(some.heights) - 1}):
        for axis in (some.grid.names[k] for k in some.layout.averaged):
            spectra = {name: (s.wavenumbers(axis), s.spectrum(axis)[level, 0]) for name, s in found.items()}
            caption = f"{some.layout.velocities[0]} by wavenumber along {axis}, {_height(some, level)}"
            figures.append(_spectrum_figure(spectra, colours, caption, f"wavenumber along {axis}"))
    return figures


def _spectrum_figure(
    spectra: Mapping[str, tuple[np.ndarray, Estimate]], colours: Colours, caption: str, across: str
) -> Figure:
    lines = [
        Line(
            name=words(name), x=k[1:], y=energy.value[1:], colour=colours[name],
            half_width=energy.plus_minus[1:] if name == REFERENCE else None,
        )
        for name, (k, energy) in spectra.items()
    ]  # fmt: skip
    reference = spectra.get(REFERENCE)
    least = None
    if reference is not None:
        positive = reference[1].value[1:][reference[1].value[1:] > 0]
        # What a spectrum holds far below the reference's least is rounding.
        least = float(positive.min()) / 10 if positive.size else None
    drawn = chart(lines, across=Scale(words=across, log=True), up=Scale(words="energy", log=True, least=least))
    return Figure(image=drawn, caption=caption, alt="spectra of every rollout")


def profile_figures(found: Mapping[str, Statistics], colours: Colours, published: Sequence[Profiles]) -> list[Figure]:
    """Mean velocity with the laws of the wall, fluctuations and shear stress, in each one's own wall units."""
    profiles = {}
    for name, statistics in found.items():
        if not statistics.layout.mirrored or statistics.nu is None:
            continue
        made = wall_profiles(statistics, words(name))
        if np.isfinite(made.velocity.value).all() and made.re_tau > 0:
            profiles[name] = made
    if not profiles:
        return []
    across = Scale(words="distance from the wall in wall units", log=True)
    most = max(profile.re_tau for profile in profiles.values())
    laws = [
        Line(name="U⁺ = y⁺", x=(near := np.linspace(1, 12, 30)), y=near, colour="#8b959b", dashed=True),
        Line(
            name="log law", x=(far := np.geomspace(20, max(most, 40), 30)), y=np.log(far) / KARMAN + INTERCEPT,
            colour="#8b959b", dashed=True,
        ),
    ]  # fmt: skip
    velocity = _profile_lines(profiles, colours, published, lambda p: p.velocity)
    figures = [
        Figure(
            image=chart([*laws, *velocity], across=across, up=Scale(words="U⁺", least=0)),
            caption="Mean velocity in wall units",
            alt="mean velocity profiles",
        )
    ]
    for k, name in enumerate(("streamwise", "wall-normal", "spanwise")[: _components(profiles)]):
        lines = _profile_lines(profiles, colours, published, lambda p, k=k: p.rms[:, k])  # type: ignore[misc]
        drawn = chart(lines, across=across, up=Scale(words=f"rms of the {name} fluctuation, wall units", least=0))
        figures.append(Figure(image=drawn, caption=f"Fluctuation, {name}", alt=f"{name} fluctuations"))
    shear = _profile_lines(profiles, colours, published, lambda p: p.shear)
    linear = Scale(words="distance from the wall in wall units")
    drawn = chart(shear, across=linear, up=Scale(words="\N{MINUS SIGN}⟨uv⟩, wall units"))
    return [*figures, Figure(image=drawn, caption="Reynolds shear stress", alt="shear stress profiles")]


def _components(profiles: Mapping[str, Profiles]) -> int:
    return min(profile.rms.value.shape[1] for profile in profiles.values())


def _profile_lines(
    profiles: Mapping[str, Profiles],
    colours: Colours,
    published: Sequence[Profiles],
    quantity: Callable[[Profiles], Estimate | None],
) -> list[Line]:
    lines = []
    for table in published:
        values = quantity(table)
        if values is not None:
            name = f"{table.name}{' (filtered)' if table.filtered else ''}"
            lines.append(Line(name=name, x=table.y_plus[1:], y=values.value[1:], colour="#8b959b", dots=True))
    for name, profile in profiles.items():
        values = quantity(profile)
        if values is not None:
            lines.append(
                Line(
                    name=words(name), x=profile.y_plus[1:], y=values.value[1:], colour=colours[name],
                    half_width=values.plus_minus[1:],
                )
            )  # fmt: skip
    return lines


def density_figures(found: Mapping[str, Statistics], colours: Colours) -> list[Figure]:
    """Probability densities of the first and the second velocity component and of the last vorticity."""
    some = next(iter(found.values()), None)
    if some is None:
        return []
    level = min(1, len(some.heights) - 1)
    figures = []
    for quantity in (*some.layout.velocities[:2], some.layout.vorticities[-1]):
        lines = []
        for name, statistics in found.items():
            density, edges = statistics.density(level, quantity), statistics.edges(level, quantity)
            middles = (edges[:-1] + edges[1:]) / 2
            there = density.value > FAINTEST * np.nanmax(density.value, initial=0.0)
            lines.append(
                Line(
                    name=words(name), x=middles[there], y=density.value[there], colour=colours[name],
                    half_width=density.plus_minus[there] if name == REFERENCE else None,
                )
            )  # fmt: skip
        drawn = chart(lines, across=Scale(words=f"fluctuation of {quantity}"), up=Scale(words="density", log=True))
        caption = f"Density of {quantity}" + (f", {_height(some, level)}" if some.layout.walls else "")
        figures.append(Figure(image=drawn, caption=caption, alt=f"densities of {quantity}"))
    return figures


def _height(statistics: Statistics, level: int) -> str:
    """Where a level lies, in wall units where they are known."""
    height = float(statistics.heights[level])
    try:
        return f"at y⁺ = {height * statistics.re_tau / statistics.half_height:.3g}"
    except PenstockError:
        return f"{height:.3g} from the wall"
