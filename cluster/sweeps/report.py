"""The page that tells what a sweep found: `write_report(sweep_folder)`, from SWEEP/trials.json alone."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.sweeps.charts import Key, Line, bars, curves, parallel
from cluster.sweeps.importance import LEAST, Importance, importance
from configs import load
from data.errors import PenstockError
from flows import report as page
from flows.reporting.words import duration, number
from flows.run import DONE, Run, write_json
from flows.tracking import TRIALS, record_end

WORDS = {"nan": "not a number", "stopped": "stopped early"}
"""States as the report says them."""
ENDED = ("done", "stopped", "failed", "nan")
_RECORDED = "wandb/ends.json"  # what W&B knows of how trials ended
_SHOWN_TRIALS = 500
IMPORTANCE = (
    "The trials are ranked by the metric and each setting's range is cut into parts; a bar is the share of the "
    "variance of the ranks that lies between the parts (the effect size of a Kruskal-Wallis test), the mark what 95 "
    "of 100 random orders of the trials stay below. A bar that does not pass its mark says nothing. Each setting is "
    "looked at alone: what acts only together with another is not seen, and where later trials were chosen by earlier "
    "ones, settings that moved together share what one of them did."
)


@dataclass(frozen=True)
class Trial:
    """One entry of trials.json."""

    name: str
    config: Mapping[str, Any]
    state: str
    reason: str | None
    metric: float | None
    step: int | None
    seconds: float
    attempts: int
    history: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Sweep:
    """The content of trials.json, the best trial first, those without a value last."""

    name: str
    target: str
    metric: str
    mode: str
    keys: Mapping[str, Mapping[str, Any]]
    trials: Sequence[Trial]

    @property
    def measured(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.metric is not None]

    @property
    def best(self) -> Trial:
        """Among those that were trained to their end, where there are any."""
        return next((trial for trial in self.measured if trial.state == DONE), self.measured[0])

    def losses(self) -> list[float]:
        """Of the measured trials; lower is better."""
        sign = -1.0 if self.mode == "max" else 1.0
        return [sign * trial.metric for trial in self.trials if trial.metric is not None]


def write_report(sweep: Path) -> Path:
    """Write SWEEP/report.html, and tell W&B how each trial ended.

    Raises:
        PenstockError: there is no trials.json, or it cannot be read.
    """
    found = read_sweep(sweep)
    path = sweep / "report.html"
    page.write_report(path, _report(found, sweep))
    record_ends(sweep, found)
    return path


def read_sweep(sweep: Path) -> Sweep:
    """What SWEEP/trials.json says."""
    file = sweep / TRIALS
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        mode = str(said["mode"])
        trials = [_trial(entry) for entry in said["trials"]]
        sign = -1.0 if mode == "max" else 1.0
        trials.sort(key=lambda t: (t.metric is None, 0.0 if t.metric is None else sign * t.metric, t.name))
        keys = {str(key): dict(told) for key, told in said["keys"].items()}
        return Sweep(str(said["sweep"]), str(said["target"]), str(said["metric"]), mode, keys, trials)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PenstockError(
            f"{file} cannot be read ({type(error).__name__}: {error}); expected the trials of a sweep, as "
            "`penstock sweep` writes them."
        ) from None


def _trial(entry: Mapping[str, Any]) -> Trial:
    history = [(int(step), float(value)) for step, value in entry.get("history") or () if value is not None]
    return Trial(
        name=str(entry["name"]),
        config=dict(entry["config"]),
        state=str(entry["state"]),
        reason=entry.get("reason"),
        metric=_finite(entry.get("metric")),
        step=entry.get("step"),
        seconds=float(entry.get("seconds") or 0.0),
        attempts=int(entry.get("attempts") or 0),
        history=[(step, value) for step, value in history if math.isfinite(value)],
    )


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None


# ------------------------------------------------------------------------------------------------------ the page


def _report(sweep: Sweep, folder: Path) -> page.Report:
    lines, keys = _lines(sweep), {name: _key(told) for name, told in sweep.keys.items()}
    sections: list[page.Section] = [
        *_best(sweep),
        _table(sweep),
        *_without_a_value(sweep),
        _drawing("Training of every trial", curves(lines, sweep.metric), _curves_note(sweep)),
        _drawing("Settings", parallel(lines, keys, sweep.metric), _parallel_note(sweep), 150 + 134 * (len(keys) + 1)),
        _importance(sweep),
        *_sources(folder),
    ]
    return page.Report(
        run=sweep.name,
        domain=sweep.target,
        sections=sections,
        headlines=_headlines(sweep),
        date=_begun(folder),
        summary=_summary(sweep),
    )


def _headlines(sweep: Sweep) -> list[page.Headline]:
    seconds = sum(trial.seconds for trial in sweep.trials)
    found = [
        page.Headline(label="trials", value=len(sweep.trials), note=_counts(sweep)),
        page.Headline(label="time of all trials", value=duration(seconds), note="added up"),
    ]
    measured = sweep.measured
    if not measured:
        return found
    best, middle = sweep.best, measured[len(measured) // 2]
    least = "highest" if sweep.mode == "max" else "lowest"
    first = page.Headline(label=f"{least} {sweep.metric}", value=best.metric, note=f"trial {best.name}")
    second = page.Headline(label="median trial", value=middle.metric, note=sweep.metric)
    return [first, *([second] if len(measured) > 2 else []), *found]


def _counts(sweep: Sweep) -> str:
    states = [trial.state for trial in sweep.trials]
    return ", ".join(f"{states.count(state)} {WORDS.get(state, state)}" for state in dict.fromkeys(states))


def _summary(sweep: Sweep) -> str:
    least = "highest" if sweep.mode == "max" else "lowest"
    text = f"{_trials(len(sweep.trials))} of {sweep.target} over {_listed(list(sweep.keys))}, for the {least} "
    text += f"{sweep.metric}."
    open_ones = [trial for trial in sweep.trials if trial.state not in ENDED]
    if open_ones:
        text += f" {len(open_ones)} have not ended: `penstock resume {sweep.name}` goes on with them."
    return text


def _best(sweep: Sweep) -> list[page.Section]:
    if not sweep.measured:
        words = f"No trial has a value of {sweep.metric}: the reasons stand below."
        return [page.Text(title="Best trial", paragraphs=[words])]
    best = sweep.best
    settings = {key: _cell(best.config.get(key)) for key in sweep.keys}
    result: dict[str, page.Value] = {
        "trial": best.name, sweep.metric: best.metric, "after step": best.step,
        "state": WORDS.get(best.state, best.state), "run": f"trials/{best.name}",
    }  # fmt: skip
    if best.state == DONE:
        result["model and configuration"] = "best/"
    note = (
        "Chosen among trials by the number that is shown here, which is therefore better than what new data will give: "
        "the more trials, the more so. Measure the winner on data that took no part in the choice."
    )
    if best is not sweep.measured[0]:
        note += " A trial that was stopped early had come further, and is not chosen: it has no trained model."
    return [page.KeyValues(title="Best trial", groups={"Result": result, "Settings": settings}, note=note)]


def _table(sweep: Sweep) -> page.Table:
    short = short_names(list(sweep.keys))
    rows: list[list[page.Value]] = []
    for trial in sweep.trials[:_SHOWN_TRIALS]:
        settings = [_cell(trial.config.get(key)) for key in sweep.keys]
        state = WORDS.get(trial.state, trial.state) + (f", {trial.attempts} attempts" if trial.attempts > 1 else "")
        rows.append([trial.name, trial.metric, state, trial.step, duration(trial.seconds), *settings])
    note = "The best first." + (
        f" {_SHOWN_TRIALS} of {len(sweep.trials)} are shown; trials.json has all."
        if len(sweep.trials) > _SHOWN_TRIALS
        else ""
    )
    if any(trial.state == "stopped" for trial in sweep.trials):
        note += " Trials that the scheduler stopped early stand with their best value until then."
    columns = ["trial", sweep.metric, "state", "step", "time", *short.values()]
    return page.Table(title="Trials", columns=columns, rows=rows, note=note)


def _without_a_value(sweep: Sweep) -> list[page.Section]:
    """Every trial that ended badly, with its reason in full."""
    rows = [
        (trial.name, WORDS.get(trial.state, trial.state), trial.step, trial.reason or "no reason is recorded")
        for trial in sweep.trials
        if trial.state in ("failed", "nan")
    ]
    note = "They left the other trials alone. The log of a trial is trials/NAME/log.txt."
    columns = ("trial", "state", "after step", "reason")
    return [page.Table(title="Failed trials", columns=columns, rows=rows, note=note)] if rows else []


def _curves_note(sweep: Sweep) -> str:
    return (
        f"{sweep.metric} at every validation. Colours go by rank, from the best trial in blue to the worst in orange; "
        "a dashed line is a trial that failed. Point at a line for its trial."
    )


def _parallel_note(sweep: Sweep) -> str:
    return (
        "Every line is a trial and passes each axis at its setting; colours as above. Settings that were searched on a "
        "logarithmic scale have a logarithmic axis. Where good trials bundle on an axis, that setting matters."
    )


def _drawing(title: str, svg: Any, note: str, width: int = 860) -> page.Section:
    if svg is None:
        return page.Text(title=title, paragraphs=["No trial has a value to show."])
    return page.Drawing(title=title, svg=svg, note=note, width=max(width, 620))


def _importance(sweep: Sweep) -> page.Section:
    title, measured = "Importance of the settings", sweep.measured
    if len(measured) < LEAST:
        words = (
            f"With a value: {_trials(len(measured))}. Fewer than {LEAST} say nothing about what a setting does: any "
            "order of so few comes about by chance."
        )
        return page.Text(title=title, paragraphs=[words])
    rows, silent = [], []
    for key in sweep.keys:
        found, best = _importance_of(sweep, key)
        if found is None:
            silent.append(key)
        else:
            rows.append((key, found.share, found.chance, f"best: {best}" if found.beyond_chance else "within chance"))
    if not rows:
        return page.Text(title=title, paragraphs=["No setting has varied over enough trials to be told apart."])
    rows.sort(key=lambda row: -row[1])
    note = f"From {len(measured)} trials. {IMPORTANCE}"
    if silent:
        note += f" Left out, as too few trials vary in it: {_listed(silent)}."
    return page.Drawing(title=title, svg=bars(rows, f"importance of {len(rows)} settings"), note=note, width=860)


def _importance_of(sweep: Sweep, key: str) -> tuple[Importance | None, str]:
    """Of one setting, over the trials that have it; and the part of its range that did best, in words."""
    kind = _key(sweep.keys[key])
    having = [
        (loss, t) for loss, t in zip(sweep.losses(), sweep.measured, strict=True) if t.config.get(key) is not None
    ]
    values = [_value(kind, trial.config[key]) for _, trial in having]
    found = importance([loss for loss, _ in having], values)
    if found is None:
        return None, ""
    best = [values[k] for k in found.best]
    if isinstance(best[0], str):
        return found, best[0]
    low, high = (number(float(end)) for end in (min(best), max(best)))
    return found, low if low == high else f"{low} to {high}"


def _sources(folder: Path) -> list[page.Section]:
    try:
        text = (folder / "sweep.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found: list[page.Section] = [page.Source(title="Configuration", text=text, language="yaml", summary="sweep.yaml")]
    try:
        command = load.read_yaml(folder / "sweep.yaml").get("command")
    except PenstockError:
        command = None
    return [*found, page.Command(command=command)] if isinstance(command, str) else found


def _begun(folder: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp((folder / "sweep.yaml").stat().st_mtime).astimezone()
    except OSError:
        return None


# ------------------------------------------------------------------------------------------------ lines and words


def _key(told: Mapping[str, Any]) -> Key:
    kind, values = str(told.get("kind", "")), tuple(told.get("values") or ())
    if kind == "choice":
        return Key(words=tuple(_text(value) for value in values))
    limits = (float(values[0]), float(values[-1])) if len(values) == 2 else None
    return Key(log=kind.startswith("log"), limits=limits)


def _value(key: Key, value: Any) -> float | str:
    """As it is drawn: choices are words, also where they are numbers."""
    if key.words or isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    return float(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(part) for part in value)
    return str(value)


def _cell(value: Any) -> page.Value:
    return value if value is None or isinstance(value, bool | int | float | str) else _text(value)


def _lines(sweep: Sweep) -> list[Line]:
    keys = {name: _key(told) for name, told in sweep.keys.items()}
    most = max(len(sweep.measured) - 1, 1)
    found = []
    for rank, trial in enumerate(sweep.trials):
        values = {
            name: _value(key, trial.config[name]) for name, key in keys.items() if trial.config.get(name) is not None
        }
        settings = "\n".join(f"{name}: {_shown(value)}" for name, value in values.items())
        result = f"{sweep.metric} {number(trial.metric)}" if trial.metric is not None else "no value"
        state = WORDS.get(trial.state, trial.state) + (f" after step {trial.step}" if trial.step else "")
        words = f"{trial.name}: {result}, {state}\n{settings}"
        line = Line(trial.name, words, None, trial.history, values, trial.metric)
        found.append(line if trial.metric is None else replace(line, place=rank / most))
    return found


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else number(value)


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest end of each dotted key that no other of them has."""
    found = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        found[key] = next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), key)
    return found


# ------------------------------------------------------------------------------------------------------------- W&B


def record_ends(sweep: Path, found: Sweep) -> None:
    """Tell W&B how each trial ended, once; again where a resumed sweep changed it."""
    file = sweep / _RECORDED
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    for trial in found.trials:
        end = [trial.state, trial.metric, trial.reason, trial.step]
        folder = sweep / "trials" / trial.name
        if trial.state not in ENDED or known.get(trial.name) == end or not (folder / "status.json").is_file():
            continue
        facts = {"metric": trial.metric, "metric_name": found.metric, "reason": trial.reason, "steps": trial.step}
        if record_end(Run(folder), trial.state, failed=trial.state in ("failed", "nan"), **facts):
            known[trial.name] = end
            write_json(file, known)
