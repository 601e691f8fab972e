"""Charts of the statistics of rollouts beside those of the simulation."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data.errors import PenstockError
from data.turbulence.blocks import Estimate
from data.turbulence.profiles import Profiles, wall_profiles
from data.turbulence.statistics import Statistics
from flows.report import Figure
from flows.steps.turbulence_charts import Line, Scale, chart
from flows.steps.turbulence_evaluation import SIMULATION
from flows.steps.turbulence_verdict import short

KARMAN, INTERCEPT = 0.41, 5.2
"""Of the logarithmic law U+ = ln(y+) / KARMAN + INTERCEPT."""
LONGEST = 400
"""Points of a drawn line."""
FAINTEST = 1e-5
"""Densities below this share of the greatest are not drawn."""
LEAST_ENERGY = 1e-9
"""The same of spectra."""
FAR = 8.0
"""Series are drawn up to so many half-widths of the simulation's band."""

POINTS = 40
"""Of a published table that are drawn."""
QUIET = "#8b959b"
"""Colour of laws and published tables."""

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
    lines = []
    for model, statistics in found.items():
        if model == SIMULATION:
            continue
        first = statistics.series.trajectory == statistics.series.trajectory[0]
        time, value = statistics.series.time[first], values(statistics)[first]
        every = -(-len(time) // LONGEST)
        lines.append(Line(name=short(model), x=time[::every], y=value[::every], colour=colours[model]))
    up = Scale(words=label)
    if SIMULATION in found and lines:
        low, high = np.quantile(values(found[SIMULATION]), [0.025, 0.975])
        middle, half = (low + high) / 2, (high - low) / 2
        last = max(float(np.max(line.x)) for line in lines)
        # A run that blows up is not to press all others into one line.
        reach = max(FAR * half, abs(middle) / 4)
        shown = np.concatenate([[middle - 1.5 * half, middle + 1.5 * half], *(np.asarray(line.y) for line in lines)])
        shown = shown[np.abs(shown - middle) <= reach]
        margin = 0.05 * float(np.ptp(shown))
        up = Scale(words=label, least=float(shown.min()) - margin, most=float(shown.max()) + margin)
        lines.append(Line(name=short(SIMULATION), x=[0.0, last], y=[middle] * 2, half_width=[half] * 2))
    return Figure(image=chart(lines, across=Scale(words="time"), up=up), caption=f"{name.capitalize()} over time",
                  alt=f"{name} of every rollout over time")  # fmt: skip


def spectrum_figures(found: Mapping[str, Statistics], colours: Colours) -> list[Figure]:
    """Energy spectra: by shells where all directions are periodic, else along the walls at two heights."""
    some = next(iter(found.values()), None)
    if some is None:
        return []
    if "shell_spectrum" in some.blocks.means:
        # Beyond the last wavenumber of an axis shells are no longer whole.
        whole = min(2 * np.pi / axis.length * ((len(axis) - 1) // 2) for axis in some.grid.axes)
        inside = some.shells <= whole * (1 + 1e-9)
        spectra = {name: (s.shells[inside], s.shell_spectrum[inside]) for name, s in found.items()}
        return [_spectrum_figure(spectra, colours, "Kinetic energy by wavenumber", "k")]
    figures = []
    for level in sorted({min(1, len(some.heights) - 1), len(some.heights) - 1}):
        for axis in (some.grid.names[k] for k in some.layout.averaged):
            kept = slice((len(some.grid.axes[some.grid.names.index(axis)]) + 1) // 2)  # the last mode is half a mode
            spectra = {name: (s.wavenumbers(axis)[kept], s.spectrum(axis)[level, 0, kept]) for name, s in found.items()}
            caption = f"{some.layout.velocities[0]} by wavenumber along {axis}, {_height(some, level)}"
            figures.append(_spectrum_figure(spectra, colours, caption, f"wavenumber along {axis}"))
    return figures


def _spectrum_figure(
    spectra: Mapping[str, tuple[np.ndarray, Estimate]], colours: Colours, caption: str, across: str
) -> Figure:
    lines = [
        Line(
            name=short(name), x=k[1:], y=energy.value[1:], colour=colours[name],
            half_width=energy.plus_minus[1:] if name == SIMULATION else None,
        )
        for name, (k, energy) in spectra.items()
    ]  # fmt: skip
    least = None
    if SIMULATION in spectra:
        energy = spectra[SIMULATION][1].value[1:]
        there = energy[energy > LEAST_ENERGY * energy.max(initial=0.0)]
        least = float(there.min()) / 10 if there.size else None
    drawn = chart(lines, across=Scale(words=across, log=True), up=Scale(words="energy", log=True, least=least))
    return Figure(image=drawn, caption=caption, alt="spectra of every rollout")


def profile_figures(found: Mapping[str, Statistics], colours: Colours, published: Sequence[Profiles]) -> list[Figure]:
    """Mean velocity with the laws of the wall, fluctuations and shear stress, in each one's own wall units."""
    profiles = {}
    for name, statistics in found.items():
        if not statistics.layout.mirrored or statistics.nu is None:
            continue
        made = wall_profiles(statistics, short(name))
        if np.isfinite(made.velocity.value).all() and made.re_tau > 0:
            profiles[name] = made
    if not profiles:
        return []
    centre = (profiles[SIMULATION] if SIMULATION in profiles else next(iter(profiles.values()))).re_tau
    across = Scale(words="distance from the wall in wall units", log=True, least=1, most=1.05 * centre)
    laws = [
        Line(name="", x=(near := np.linspace(1, 12, 30)), y=near, colour=QUIET, dashed=True),
        Line(
            name="", x=(far := np.geomspace(20, max(centre, 40), 30)), y=np.log(far) / KARMAN + INTERCEPT,
            colour=QUIET, dashed=True,
        ),
    ]  # fmt: skip
    figures = [
        _profile_figure(
            [*laws, *_profile_lines(profiles, colours, published, lambda p: p.velocity)], across, "U⁺",
            "Mean velocity; dashed: y⁺ and the logarithmic law",
        )
    ]  # fmt: skip
    for k, name in enumerate(("streamwise", "wall-normal", "spanwise")[: _components(profiles)]):
        lines = _profile_lines(profiles, colours, published, lambda p, k=k: p.rms[:, k])  # type: ignore[misc]
        figures.append(_profile_figure(lines, across, "rms, wall units", f"Fluctuation of the {name} velocity"))
    shear = _profile_lines(profiles, colours, published, lambda p: p.shear)
    linear = Scale(words="distance from the wall in wall units", least=0, most=1.05 * centre)
    return [*figures, _profile_figure(shear, linear, "\N{MINUS SIGN}⟨uv⟩, wall units", "Reynolds shear stress")]


def _profile_figure(lines: Sequence[Line], across: Scale, label: str, caption: str) -> Figure:
    """Up to a little more than what the models are held against: one that has blown up is cut."""
    held = [np.nanmax(line.y) for line in lines if line.colour in ("", QUIET) and len(line.y)]
    up = Scale(words=label, least=0, most=1.5 * float(max(held)) if held else None)
    return Figure(image=chart(lines, across=across, up=up), caption=caption, alt=caption)


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
            # Tables of a hundred rows would be a thick line.
            wanted = np.geomspace(1, table.y_plus[-1], POINTS)
            rows = sorted({int(np.argmin(np.abs(table.y_plus - y))) for y in wanted} - {0})
            name = f"{table.name}{' (filtered)' if table.filtered else ''}"
            lines.append(
                Line(
                    name=name, x=table.y_plus[rows], y=values.value[rows], colour=QUIET,
                    dots=table.filtered, dashed=not table.filtered,
                )
            )  # fmt: skip
    for name, profile in profiles.items():
        values = quantity(profile)
        if values is not None:
            lines.append(
                Line(
                    name=short(name), x=profile.y_plus[1:], y=values.value[1:], colour=colours[name],
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
                    name=short(name), x=middles[there], y=density.value[there], colour=colours[name],
                    half_width=density.plus_minus[there] if name == SIMULATION else None,
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
