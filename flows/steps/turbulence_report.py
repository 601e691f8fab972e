"""What a turbulence run has to show: who stays bounded for how long, who is near the simulation, and at what cost."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import PenstockError
from data.turbulence.profiles import Profiles
from data.turbulence.reference import read_dns_statistics, read_filtered, read_moser
from data.turbulence.statistics import Statistics
from flows.report import Figure, Figures, Headline, Section, Table, Text, Value, report_of_run, write_report
from flows.run import Run
from flows.steps.turbulence_charts import PALETTE, Line, Mark, Scale, chart, points_chart
from flows.steps.turbulence_evaluation import PERSISTENCE, SIMULATION, TEST, read_results, read_statistics
from flows.steps.turbulence_figures import (
    Colours,
    density_figures,
    energy_figures,
    profile_figures,
    spectrum_figures,
)
from flows.steps.turbulence_snapshots import Rollouts, picture_figures
from flows.steps.turbulence_solvers import NO_MODEL
from flows.steps.turbulence_verdict import (
    compared_step,
    ended,
    error_at,
    of_kind,
    percent,
    shared_quantities,
    short,
    statistics_errors,
    typical_error,
    verdict,
    words,
)

STILL = "#8b959b"
"""Colour of what does nothing."""
CHART = 480
"""Least pixels across of a chart, so that two stand beside each other."""
METRICS = {
    "relative_l2": ("Relative L2 error", "relative L2 error"),
    "vrmse": ("VRMSE: error in units of each component's fluctuation; the mean flow scores 1", "VRMSE"),
    "correlation": ("Correlation of the fluctuations with the simulation's", "correlation"),
}
MOST_ERROR = 2.0
"""Errors are drawn up to here: two fields that have nothing to do with each other are about 1.4 apart."""
CLOSE_RE = 0.15
"""Published profiles are shown where their friction Reynolds number is within this share of the flow's."""
SPACE = "\N{NO-BREAK SPACE}"
COST = (
    "CPU seconds per unit of time of the flow, all on the same device, against the typical error of the long-time "
    "statistics (geometric mean of the figures below that all models have). Down and to the left is better. The coarse "
    "run solves the equations on the network's own grid without any model of the smaller scales: it is the baseline to "
    "beat."
)
ERRORS = (
    "Relative L2 distance to the statistics of the whole simulation; of densities the Wasserstein distance in standard "
    "deviations. Behind ± what sampling makes of it (95 %, from blocks). The test part of the simulation, judged as if "
    "it were a model, shows what chance alone gives."
)
PROFILES = (
    "Each in wall units of its own friction velocity, with 95 % bands from blocks. Grey: published tables beside "
    "the data. Unfiltered simulations (dashed) lie above filtered fields by what the filter took."
)


def report(run: Run) -> None:
    """Write report.html."""
    results = read_results(run)
    found, colours = _statistics(run, results), _colours(results)
    rollouts = Rollouts.of(run, SIMULATION, of_kind(results, "network", "solver"))
    published = _published(run, found.get(SIMULATION))
    sections: list[Section] = [
        Text(title="What came out", paragraphs=verdict(results)),
        *_pictures(rollouts, results, found),
        *_steps(results, colours),
        _models(results),
        *_measured(results),
        *_charts("Long rollouts", energy_figures(found, colours), _LONG),
        *_charts("Spectra", spectrum_figures(found, colours), "Of the fluctuations; the band is that of the DNS."),
        *_charts("Profiles", profile_figures(found, colours, published), PROFILES),
        *_charts("Densities", density_figures(found, colours), "Of the fluctuations; the band is that of the DNS."),
        *_cost(results, colours),
        *_errors(results),
    ]
    page = report_of_run(
        run.path, sections, headlines=_headlines(results), summary=_summary(run, results), domain=run.domain_name
    )
    write_report(run.path / "report.html", page)


_LONG = (
    "The first rollout of every model after it has settled. The grey band holds 95 % of the simulation's frames; what "
    "leaves the chart has left the simulation's range by far."
)


def _statistics(run: Run, results: Mapping[str, Any]) -> dict[str, Statistics]:
    """Of the simulation and of every model that lived long enough to have some."""
    names = [SIMULATION, *of_kind(results, "network", "solver")]
    return {n: read_statistics(run, n) for n in names if (run.path / "evaluation" / f"{n}.h5").is_file()}


def _colours(results: Mapping[str, Any]) -> Colours:
    names = of_kind(results, "network", "solver")
    return {SIMULATION: "", PERSISTENCE: STILL} | {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(names)}


def _summary(run: Run, results: Mapping[str, Any]) -> str:
    source = run.provenance().get("data", {}).get("source")
    data = results.get("data", {})
    made = "" if source is None else ", simulated here" if source == "simulated" else f" from {source}"
    units = f" Units: {data['units']}." if data.get("units") else ""
    networks, solvers = (
        ", ".join(words(name) for name in of_kind(results, kind)) or "none" for kind in ("network", "solver")
    )
    rollouts = results.get("trajectories")
    many = f", {rollouts} of them" if rollouts else ""
    return (
        f"Flow '{data.get('name', 'unnamed')}'{made}. Rollouts of {results['steps']} steps of {results['spacing']:.4g} "
        f"units of time{many}. Networks: {networks}. Solvers on the same grid: {solvers}.{units}"
    )


def _headlines(results: Mapping[str, Any]) -> list[Headline]:
    found: list[Headline] = []
    best = _best_network(results)
    if best is None:
        return found
    model, step = results["models"][best], compared_step(results)
    found.append(Headline(label="best network", value=words(best)))
    bounded = "all of them" if not ended(results, best) else "ended early"
    found.append(Headline(label="bounded for", value=int(model["steps"]), unit="steps", note=bounded))
    others = {name: error_at(results["models"].get(name, {}), step) for name in (PERSISTENCE, NO_MODEL)}
    note = ", ".join(f"{short(name)} {error:.3g}" for name, error in others.items() if math.isfinite(error))
    error = error_at(model, step)
    if math.isfinite(error):
        found.append(Headline(label=f"error after {step} steps", value=f"{error:.3g}", note=note))
    quantities = shared_quantities(results)
    typical = typical_error(model, quantities)
    if math.isfinite(typical):
        coarse = typical_error(results["models"].get(NO_MODEL, {}), quantities)
        note = f"{short(NO_MODEL)} {percent(coarse)}" if math.isfinite(coarse) else ""
        found.append(Headline(label="error of the statistics", value=percent(typical), note=note))
    return found


def _best_network(results: Mapping[str, Any]) -> str | None:
    """The one that lives longest, and is nearest to the simulation after some steps."""
    names, step = of_kind(results, "network"), compared_step(results)

    def rank(name: str) -> tuple[float, float]:
        error = error_at(results["models"][name], step)
        return -int(results["models"][name]["steps"]), error if math.isfinite(error) else math.inf

    return min(names, key=rank, default=None)


def _pictures(rollouts: Rollouts, results: Mapping[str, Any], found: Mapping[str, Statistics]) -> list[Section]:
    """Snapshots and the film; without rollouts, or without a picture worth showing, neither."""
    unit = _wall_unit(found.get(SIMULATION))
    figures = picture_figures(rollouts, unit, results["spacing"], short)
    if not figures:
        return []
    note = (
        "All from the same frame of the test part. Grey or empty: no frame there, or none that is finite; the "
        "simulation's frames end where its data do. Sooner or later every forecast of turbulence parts from the truth: "
        "what is asked for is that it stays turbulence of the same kind."
    )
    return [Figures(title="The flow", figures=figures, note=note)]


def _wall_unit(reference: Statistics | None) -> float | None:
    if reference is None or not reference.layout.mirrored or reference.nu is None:
        return None
    friction = float(reference.u_tau.value)
    return reference.nu / friction if friction > 0 else None


def _steps(results: Mapping[str, Any], colours: Colours) -> list[Section]:
    figures = []
    for metric, (caption, label) in METRICS.items():
        lines = []
        for name, colour in colours.items():
            curve = results["models"].get(name, {}).get("error_by_step", {}).get(metric) or []
            values = [math.nan if value is None else float(value) for value in curve]
            if values:
                steps = np.arange(1, len(values) + 1)
                lines.append(Line(name=short(name), x=steps, y=values, colour=colour, dashed=name == PERSISTENCE))
        if not lines:
            continue
        # A model that blows up is not to press the others into one line.
        high = max(float(np.nanmax(line.y, initial=0.0)) for line in lines) > MOST_ERROR
        up = Scale(words=label, least=None if metric == "correlation" else 0, most=MOST_ERROR if high else None)
        drawn = chart(lines, across=Scale(words="steps", least=0), up=up)
        figures.append(Figure(image=drawn, caption=caption, alt=f"{label} of every model over the steps"))
    figures += _ensembles(results, colours)
    note = (
        "Against the simulation from the same frames, means over the rollouts for as long as the data have the truth. "
        "The relative L2 error of a flow with a strong mean is small whatever its fluctuations do; VRMSE is not."
    )
    return _charts("Step by step", figures, note)


def _ensembles(results: Mapping[str, Any], colours: Colours) -> list[Figure]:
    """Spread of each network's ensemble beside the error of its exact member; nothing where there are none."""
    lines = []
    for name, colour in colours.items():
        model = results["models"].get(name, {})
        spread = model.get("spread_by_step") or []
        error = (model.get("error_by_step", {}).get("vrmse") or [])[: len(spread)]
        if spread:
            shown = spread[: max(len(error), 1)]
            lines.append(Line(name=f"{short(name)}: spread", x=np.arange(1, len(shown) + 1), y=shown, colour=colour))
            lines.append(
                Line(name=f"{short(name)}: error", x=np.arange(1, len(error) + 1), y=error, colour=colour, dashed=True)
            )
    if not lines:
        return []
    drawn = chart(lines, across=Scale(words="steps", least=0), up=Scale(words="VRMSE", least=0))
    caption = "Spread between the members of an ensemble; an honest one is as large as the error"
    return [Figure(image=drawn, caption=caption, alt="spread and error of the ensembles over the steps")]


def _measured(results: Mapping[str, Any]) -> list[Table]:
    """Single figures of the long run."""
    names = [name for name, model in results["models"].items() if model.get("measured")]
    if not names:
        return []
    quantities = list(results["models"][names[0]]["measured"])
    rows = [
        (short(name), *(_with_half_width(results["models"][name]["measured"][quantity]) for quantity in quantities))
        for name in names
    ]
    note = (
        "Energy per unit mass; time over which fluctuations at a point stay alike; rms divergence as a share of the "
        "rms of ∂u/∂x (fields that are filtered or sub-sampled have some). Behind ± 95 % from blocks."
    )
    return [Table(title="In the long run", columns=("", *quantities), rows=rows, note=note)]


def _with_half_width(pair: Sequence[float | None]) -> str | None:
    value, half = pair
    if value is None:
        return None
    return f"{value:.3g}" if half is None else f"{value:.3g} ± {half:.2g}"


def _charts(title: str, figures: Sequence[Figure], note: str) -> list[Section]:
    return [Figures(title=title, figures=figures, note=note, width=CHART)] if figures else []


def _models(results: Mapping[str, Any]) -> Table:
    last = compared_step(results)
    rows: list[Sequence[Value]] = []
    for name in [*of_kind(results, "network", "solver"), PERSISTENCE]:
        model = results["models"].get(name)
        if model is None:
            continue
        seconds, stable = model.get("seconds_per_frame"), None
        if name != PERSISTENCE:
            stable = "ended early" if ended(results, name) else {True: "yes", False: "no"}.get(model.get("stable"))
        rows.append(
            (
                short(name), model.get("parameters"), model.get("steps"), stable,
                *(_finite(error_at(model, step)) for step in (1, last)), _finite(error_at(model, last, "vrmse")),
                model.get("time_to_divergence"), seconds / results["spacing"] if seconds else None,
            )
        )  # fmt: skip
    columns = (
        "model", "parameters", "steps", "like the DNS", "error, 1 step", f"{last} steps", "VRMSE", "diverged at",
        "CPU s",
    )  # fmt: skip
    note = (
        "Like the DNS: to the end, energy in the simulation's band, spectrum near it as far as measured. Errors are "
        f"relative L2, VRMSE is after {last} steps. Diverged: the time from which on the forecast is no better than "
        "the mean flow (VRMSE 1), where the truth is known for so long. CPU seconds are per unit of time of the flow."
    )
    return Table(title="Models", columns=columns, rows=rows, note=note)


def _cost(results: Mapping[str, Any], colours: Colours) -> list[Section]:
    quantities = shared_quantities(results)
    marks = []
    for name in of_kind(results, "network", "solver"):
        model = results["models"][name]
        cost = (model.get("seconds_per_frame") or math.nan) / results["spacing"]
        marks.append(Mark(name=short(name), x=cost, y=typical_error(model, quantities), colour=colours[name]))
    if not any(math.isfinite(mark.x) and math.isfinite(mark.y) for mark in marks):
        return []
    chance = typical_error(results["models"].get(TEST, {}), quantities)
    level = (chance, "chance alone") if math.isfinite(chance) else None
    across = Scale(words="CPU seconds per unit of time", log=True)
    drawn = points_chart(marks, across=across, up=Scale(words="typical error", log=True), level=level)
    figure = Figure(image=drawn, caption="Cost against error", alt="cost and error of every model")
    return _charts("What accuracy costs", [figure], COST)


def _errors(results: Mapping[str, Any]) -> list[Section]:
    names = [name for name in [*of_kind(results, "network", "solver"), TEST] if name in results["models"]]
    tables = {name: statistics_errors(results["models"][name]) for name in names}
    quantities = list(dict.fromkeys(quantity for table in tables.values() for quantity in table))
    if not quantities:
        return []
    rows = [(quantity, *(_estimate(tables[name].get(quantity)) for name in names)) for quantity in quantities]
    columns = ("statistic", *(short(name) for name in names))
    return [Table(title="Errors of the statistics", columns=columns, rows=rows, note=ERRORS)]


def _estimate(entry: tuple[float, float] | None) -> str | None:
    if entry is None:
        return None
    error, width = entry
    return percent(error) if not math.isfinite(width) else f"{percent(error)}{SPACE}±{SPACE}{percent(width)}"


def _finite(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None


def _published(run: Run, reference: Statistics | None) -> list[Profiles]:
    """Published profiles that lie beside the data, of a friction Reynolds number near the flow's, and the unfiltered
    ones of the data's own simulation."""
    if reference is None or not reference.layout.mirrored or reference.nu is None:
        return []
    source = Path(str(run.provenance().get("data", {}).get("source", "")))
    folder = source.parent / "reference"
    readers = [
        lambda: read_moser(folder / "mkm180_means.txt", folder / "mkm180_reystress.txt"),
        lambda: read_filtered(folder / "fdns180_paper_group.txt", "IUFNO's DNS"),
        lambda: read_dns_statistics(source),
    ]
    found = []
    for read in readers:
        try:
            table = read()
        except PenstockError:
            continue  # not there: nothing that a report is to fail for
        if abs(table.re_tau / reference.re_tau - 1) < CLOSE_RE:
            found.append(table)
    return found
