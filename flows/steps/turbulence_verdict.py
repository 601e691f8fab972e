"""What the numbers of a turbulence run say, in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flows.steps.turbulence_evaluation import PERSISTENCE, SIMULATION, TEST
from flows.steps.turbulence_solvers import NO_MODEL

WORDS = {
    "operator": "IFactFormer-m",
    "chained": "IFactFormer-o",
    "fno": "FNO",
    NO_MODEL: "coarse run without a model",
    "smagorinsky": "Smagorinsky LES",
    "dynamic": "dynamic Smagorinsky LES",
    "wale": "WALE LES",
    SIMULATION: "DNS",
    TEST: "DNS, test part",
}
SHORT = {NO_MODEL: "no model (coarse)", "smagorinsky": "Smagorinsky", "dynamic": "dynamic Smagorinsky", "wale": "WALE"}
COMPARED_STEP = 10
"""The step whose errors are put into words; the last one where there are fewer."""


def words(name: str) -> str:
    """A model's name as readers know it."""
    return WORDS.get(name, name.replace("_", " "))


def short(name: str) -> str:
    """The same where there is little room."""
    return SHORT.get(name) or words(name)


def of_kind(results: Mapping[str, Any], *kinds: str) -> list[str]:
    """Models that are networks, solvers, …, in their order; persistence is none."""
    return [n for n, model in results["models"].items() if model["kind"] in kinds and n != PERSISTENCE]


def error_at(model: Mapping[str, Any], step: int, metric: str = "relative_l2") -> float:
    """Error after `step` steps; NaN where there is none."""
    curve = model.get("error_by_step", {}).get(metric) or []
    value = curve[step - 1] if 1 <= step <= len(curve) else None
    return math.nan if value is None else float(value)


def compared_step(results: Mapping[str, Any]) -> int:
    """The step at which errors are put into words: one to which errors of all models were measured, if there is."""
    longest = [len(model.get("error_by_step", {}).get("relative_l2") or []) for model in results["models"].values()]
    return min([COMPARED_STEP, max(longest, default=0)])


def statistics_errors(model: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Error and half-width of every statistic that has a finite error."""
    found = {}
    for row in model.get("statistics") or ():
        error, width = (math.nan if row[key] is None else float(row[key]) for key in ("error", "plus_minus"))
        if math.isfinite(error):
            found[row["quantity"]] = (error, width)
    return found


def typical_error(model: Mapping[str, Any], quantities: Sequence[str]) -> float:
    """Geometric mean of the errors in these statistics: each counts by its ratio, be it large or small. NaN where one
    is missing."""
    errors = statistics_errors(model)
    if not quantities or any(quantity not in errors for quantity in quantities):
        return math.nan
    return math.exp(sum(math.log(max(errors[quantity][0], 1e-12)) for quantity in quantities) / len(quantities))


def shared_quantities(results: Mapping[str, Any]) -> list[str]:
    """Statistics that every network and solver has which has any."""
    tables = [statistics_errors(results["models"][name]) for name in of_kind(results, "network", "solver")]
    tables = [table for table in tables if table]
    return [quantity for quantity in (tables[0] if tables else {}) if all(quantity in table for table in tables)]


def percent(share: float) -> str:
    """A share with three digits; beyond ten times the whole, how much more says nothing."""
    return (f"{100 * share:.3g} %" if share < 10 else "> 1000 %").replace(" ", "\N{NO-BREAK SPACE}")


def verdict(results: Mapping[str, Any]) -> list[str]:
    """Paragraphs: who stays bounded, who is nearest step by step, who in the statistics, at what cost."""
    paragraphs = [_bounded(results), _by_step(results), *_in_statistics(results)]
    return [paragraph for paragraph in paragraphs if paragraph]


def _bounded(results: Mapping[str, Any]) -> str:
    names, asked = of_kind(results, "network", "solver"), int(results["steps"])
    whole = [name for name in names if not ended(results, name)]
    left = [name for name in whole if results["models"][name].get("stable") is False]
    span = f"{asked} steps ({asked * results['spacing']:.4g} units of time)"
    found = []
    if whole:
        found.append(f"{_listed(whole)} stayed bounded over all {span}.")
    elif names:
        found.append(f"Nothing stayed bounded over {span}.")
    found += [f"{_capital(words(n))} did not keep to the simulation: {results['models'][n]['verdict']}." for n in left]
    found += [f"{_capital(words(name))} {ended(results, name)}." for name in names if name not in whole]
    return " ".join(found)


def ended(results: Mapping[str, Any], name: str) -> str:
    """How a model's rollouts came to an early end; '' where none did."""
    model, asked = results["models"][name], int(results["steps"])
    stops = sorted((stop["step"], stop["reason"]) for stop in (model.get("stopped") or {}).values())
    if stops:
        step, reason = stops[0]
        total = int(results.get("trajectories") or len(stops))
        which = f"in {len(stops)} of {max(total, len(stops))} rollouts, first " if total > 1 else ""
        return f"ended early {which}at step {step} of {asked}: {reason.rstrip('.')}"
    if int(model.get("steps") or 0) < asked:
        return f"covers {model.get('steps') or 0} of {asked} steps"
    return ""


def _by_step(results: Mapping[str, Any]) -> str:
    step = compared_step(results)
    errors = {name: error_at(results["models"][name], step) for name in of_kind(results, "network", "solver")}
    errors = {name: error for name, error in errors.items() if math.isfinite(error)}
    if not errors:
        return ""
    order = sorted(errors, key=lambda name: errors[name])
    listed = ", ".join(f"{words(name)} {errors[name]:.3g}" for name in order)
    found = [f"Relative L2 error after {step} step{'s' if step > 1 else ''}: {listed}."]
    networks = [name for name in order if name in of_kind(results, "network")]
    still = error_at(results["models"].get(PERSISTENCE, {}), step)
    if math.isfinite(still) and networks:
        worse = [name for name in networks if errors[name] >= still]
        beaten = f"All networks beat persistence ({still:.3g})."
        found.append(f"{_listed(worse)} did not beat persistence ({still:.3g})." if worse else beaten)
    if networks and NO_MODEL in errors:
        best = networks[0]
        if errors[NO_MODEL] < errors[best]:
            found.append(
                f"The coarse spectral run without a model is nearer to the simulation than every network: "
                f"{errors[NO_MODEL]:.3g} against {errors[best]:.3g} of {words(best)}."
            )
        else:
            found.append(f"{_capital(words(best))} is nearer than the coarse spectral run without a model.")
    return " ".join(found)


def _in_statistics(results: Mapping[str, Any]) -> list[str]:
    quantities = shared_quantities(results)
    typical = {
        name: typical_error(results["models"][name], quantities) for name in of_kind(results, "network", "solver")
    }
    typical = {name: error for name, error in typical.items() if math.isfinite(error)}
    if not typical:
        return []
    order = sorted(typical, key=lambda name: typical[name])
    listed = ", ".join(f"{words(name)} {percent(typical[name])}" for name in order)
    found = [f"Typical error of the {len(quantities)} long-time statistics (their geometric mean): {listed}."]
    chance = typical_error(results["models"].get(TEST, {}), quantities)
    if math.isfinite(chance):
        found.append(f"The test part of the simulation itself is {percent(chance)} from the whole of it.")
    networks = [name for name in order if name in of_kind(results, "network")]
    if networks and NO_MODEL in typical:
        found.append(against_coarse(results, networks[0], quantities))
    return [" ".join(found)]


def against_coarse(results: Mapping[str, Any], network: str, quantities: Sequence[str]) -> str:
    """The network against the solver on its own grid: statistic by statistic, and by cost."""
    ours, theirs = (statistics_errors(results["models"][name]) for name in (network, NO_MODEL))
    better = sum(_apart(ours[q], theirs[q]) for q in quantities)
    worse = sum(_apart(theirs[q], ours[q]) for q in quantities)
    open_ = len(quantities) - better - worse
    name, count = words(network), len(quantities)
    if better > worse:
        text = f"{_capital(name)} beats the coarse spectral run without a model in {better} of {count} statistics"
        text += f", loses in {worse}" if worse else ""
    elif worse > better:
        text = f"The coarse spectral run without a model beats {name} in {worse} of {count} statistics"
        text += f", loses in {better}" if better else ""
    else:
        text = f"Neither {name} nor the coarse spectral run without a model is ahead: {better} of {count} each"
    text += f"; {open_} cannot be told apart by so few frames." if open_ else "."
    mine, its = (results["models"][n].get("seconds_per_frame") for n in (network, NO_MODEL))
    if mine and its:
        ratio = mine / its
        more = f"{_times(ratio)} as much as" if ratio >= 1 else f"{_times(1 / ratio)} less than"
        text += f" Per unit of time the network costs {more} that run."
    return text


def _apart(lower: tuple[float, float], higher: tuple[float, float]) -> bool:
    """Whether one error is below another by more than chance makes of both."""
    widths = [width for _, width in (lower, higher) if math.isfinite(width)]
    return higher[0] - lower[0] > math.hypot(*widths, 0.0)


def _times(ratio: float) -> str:
    return f"{ratio:.2g} times" if ratio < 100 else f"{ratio:.0f} times"


def _listed(names: Sequence[str]) -> str:
    shown = [words(name) for name in names]
    text = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return _capital(text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
