"""What a forecast run has to show: the forecast, the backtest against the floors, the intervals, the data."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from configs.forecast import ForecastConfig
from data.forecast.columns import Reading
from data.preparing import read_refused
from flows.report import Figure, Figures, Headline, Section, Table, Text, report_of_run, write_report
from flows.run import Run
from flows.steps.forecast_charts import horizon_chart, skill_chart
from flows.steps.forecast_export import anomalies
from flows.steps.forecast_future import read_future
from flows.steps.forecast_pictures import forecast_figures, stamp_text
from flows.steps.forecast_results import read_backtest, read_evaluation
from flows.steps.forecast_tables import step_stamps
from flows.steps.forecast_workbench import Choice, Workbench, workbench

SHOWN_FORECASTS, SHOWN_MODELS, SHOWN_ANOMALIES, SHOWN_REFUSALS = 6, 5, 15, 50
SCORES = (
    "On standardised data (training mean and deviation) over every test window; RMSE is in the units of the data, MASE "
    "in errors of the seasonal naive forecast within the training rows. Skill is the share of the best floor's square "
    "error that is saved, with 95 % limits from a bootstrap over blocks of three horizons. A model is called better "
    "only where these limits leave out zero. The model that forecasts was chosen by its validation error, before any "
    "look at the test windows."
)


def report(run: Run) -> None:
    """Write report.html."""
    evaluation, bench = read_evaluation(run), workbench(run)
    sections: list[Section] = [
        _forecasts(run, bench),
        _scores(evaluation),
        Figures(title="Skill", figures=[_skill_figure(evaluation), _horizon_figure(evaluation)]),
        *_intervals(evaluation),
        *_seeds(evaluation),
        *_anomalies(run, bench),
        *_reading(run, bench),
        _choice(run),
    ]
    page = report_of_run(
        run.path, sections, headlines=_headlines(evaluation), summary=_summary(run, evaluation), domain=run.domain_name
    )
    write_report(run.path / "report.html", page)


def _headlines(evaluation: Mapping[str, Any]) -> list[Headline]:
    chosen = evaluation["chosen"]
    model = evaluation["models"][chosen]
    skill = model["skill"]
    found = [
        Headline(label="chosen on validation", value=_words(chosen)),
        Headline(label="test MSE / MAE", value=f"{model['mse']:.4g} / {model['mae']:.4g}", note="standardised"),
        Headline(
            label=f"skill against {_words(skill['against'])}", value=_percent(skill["value"]), note=skill["verdict"]
        ),
    ]
    for level, scored in evaluation["intervals"].items():
        value = _percent(scored["coverage"])
        found.append(Headline(label=f"coverage of the {float(level):.0%} interval", value=value))
    return found


def _summary(run: Run, evaluation: Mapping[str, Any]) -> str:
    data, windows, shape = run.provenance()["data"], evaluation["windows"], evaluation["shape"]
    thinned = "" if windows["test"] == windows["of"] else f" (of {windows['of']}, evenly spread)"
    protocol = f" Protocol: {evaluation['protocol']}." if evaluation["protocol"] else ""
    leaks = evaluation["leak_test"]
    tested = f" Leak test passed on {leaks['checked']} origins and fits." if leaks else ""
    return (
        f"{windows['series']} series from {data['source']}; {shape['look_back']} steps seen, {shape['horizon']} "
        f"forecast, season {shape['season']}. Backtest on {windows['test']} windows{thinned}, none dropped."
        f"{protocol}{tested}"
    )


def _forecasts(run: Run, bench: Workbench) -> Figures:
    future = read_future(run)
    figures = forecast_figures(bench, future, SHOWN_FORECASTS)
    total = len(future.items) * len(bench.store.columns["targets"])
    note = f"By {_words(future.model)}: the median, and intervals of {_levels(run)} nominal coverage."
    if total > len(figures):
        note += f" {len(figures)} of {total} are shown; exports/forecast.parquet and .csv hold all."
    return Figures(title="Forecast", figures=figures, note=note)


def _scores(evaluation: Mapping[str, Any]) -> Table:
    rows = []
    order = sorted(evaluation["models"].items(), key=lambda pair: pair[1]["validation_mse"])
    for name, model in order:
        skill, seconds = model["skill"], evaluation["seconds"].get(name)
        limits = f"{_percent(skill['low'])} to {_percent(skill['high'])}"
        rows.append((
            _words(name), *(_digits(model[key]) for key in ("validation_mse", "mse", "mae", "mase", "rmse")),
            _percent(skill["value"]), limits, skill["verdict"], None if seconds is None else round(seconds, 1),
        ))  # fmt: skip
    columns = ("model", "validation MSE", "MSE", "MAE", "MASE", "RMSE", "skill", "95 % limits", "verdict", "CPU s")
    weights = {name: weight for name, weight in evaluation["ensemble"].items() if weight >= 0.005}
    mixed = ", ".join(f"{weight:.0%} {_words(name)}" for name, weight in weights.items())
    return Table(title="Backtest", columns=columns, rows=rows, note=f"{SCORES} The ensemble is {mixed}.")


def _skill_figure(evaluation: Mapping[str, Any]) -> Figure:
    rows = []
    for name, model in sorted(evaluation["models"].items(), key=lambda pair: pair[1]["mse"]):
        skill = model["skill"]
        values = [float("nan") if skill[key] is None else float(skill[key]) for key in ("value", "low", "high")]
        if all(np.isfinite(values)) and values[0] > -1:
            rows.append((_words(name), values[0], values[1], values[2]))
    against = _words(evaluation["floor"])
    return Figure(image=skill_chart(rows), caption=f"Skill against {against}, 95 % limits", alt="skill of every model")


def _horizon_figure(evaluation: Mapping[str, Any]) -> Figure:
    best = sorted(evaluation["models"], key=lambda name: evaluation["models"][name]["validation_mse"])[:SHOWN_MODELS]
    lines = {_words(name): _numbers(evaluation["models"][name]["per_horizon_mse"]) for name in best}
    return Figure(image=horizon_chart(lines), caption="Mean square error over the steps ahead", alt="error by step")


def _intervals(evaluation: Mapping[str, Any]) -> list[Section]:
    rows = []
    for level, scored in evaluation["intervals"].items():
        rows.append((
            f"{float(level):.0%}", _percent(scored["coverage"]), scored["width"], _percent(scored["split_coverage"]),
            scored["split_width"], scored["winkler"], "off by more than 3 points" if scored["off"] else "",
        ))  # fmt: skip
    columns = ("nominal", "coverage", "width", "split conformal: coverage", "its width", "interval score", "")
    note = (
        f"Of {_words(evaluation['chosen'])}, scaled; quantiles of the errors of the last known forecasts (trailing "
        "conformal), beside plain split conformal intervals from the validation part. Lower widths and scores are "
        "better."
    )
    own = [
        (_words(name), found["crps"], *(_percent(found[level]["coverage"]) for level in evaluation["intervals"]))
        for name, found in evaluation["heads"].items()
    ]
    heads = ("network", "CRPS", *(f"coverage of its {float(level):.0%}" for level in evaluation["intervals"]))
    coverage, width = (
        {
            f"{float(level):.0%}": _numbers(scored["per_horizon"][key])
            for level, scored in evaluation["intervals"].items()
        }
        for key in ("coverage", "width")
    )
    figures = [
        Figure(image=horizon_chart(coverage), caption="Coverage over the steps ahead", alt="coverage by step"),
        Figure(image=horizon_chart(width), caption="Width over the steps ahead, scaled", alt="width by step"),
    ]
    found: list[Section] = [Table(title="Intervals", columns=columns, rows=rows, note=note)]
    if own:
        words = "Before any calibration; intervals.method head takes them as they are."
        found.append(Table(title="Quantiles of the networks' own heads", columns=heads, rows=own, note=words))
    return [*found, Figures(title="By step", figures=figures)]


def _seeds(evaluation: Mapping[str, Any]) -> list[Section]:
    rows = [
        (_words(name), len(found["mse"]), found["mse_mean"], found["mse_sd"], found["mae_mean"], found["mae_sd"])
        for name, found in evaluation["seeds"].items()
    ]
    columns = ("network", "seeds", "MSE", "its deviation", "MAE", "its deviation")
    return [Table(title="Seeds", columns=columns, rows=rows, note="Mean and deviation over trainings.")] if rows else []


def _anomalies(run: Run, bench: Workbench) -> list[Section]:
    findings = anomalies(run.config, read_backtest(run))
    flagged = np.flatnonzero(findings.flagged)
    if not len(flagged):
        return []
    worst = flagged[np.argsort(-np.abs(np.nan_to_num(findings.scores[flagged])), kind="stable")][:SHOWN_ANOMALIES]
    when = step_stamps(bench.store, findings.items[worst], findings.steps[worst])
    rows = [
        (bench.store.ids[findings.items[k]], stamp_text(stamp), bench.store.columns["targets"][findings.targets[k]],
         float(findings.scores[k]), float(findings.p_values[k]))
        for k, stamp in zip(worst, when, strict=True)
    ]  # fmt: skip
    share, expected = len(flagged) / len(findings.flagged), run.config.evaluate.anomaly_rate
    note = (
        f"{len(flagged)} of {len(findings.flagged)} test values are flagged ({share:.2%}; {expected:.2%} expected of "
        "data that goes on as before). The score is the error over the robust deviation of the last known errors. "
        "exports/anomalies.csv has all."
    )
    columns = ("series", "time", "target", "score", "p-value")
    return [Table(title="Oddest values", columns=columns, rows=rows, note=note)]


def _reading(run: Run, bench: Workbench) -> list[Section]:
    reading = Reading.from_json(json.loads(run.data_file.with_name("reading.json").read_text()))
    found: list[Section] = [Text(title="How the data was read", paragraphs=reading.summary())]
    refused = {**read_refused(run.data_file), **{bench.store.ids[k]: why for k, why in bench.split.refused.items()}}
    if refused:
        rows = list(refused.items())[:SHOWN_REFUSALS]
        note = f"{len(refused)} series are left out; {len(rows)} are shown."
        found.append(Table(title="Left out", columns=("series", "reason"), rows=rows, note=note))
    return found


def _choice(run: Run) -> Table:
    choice = Choice.of_run(run)
    names = ("look_back", "season", "model", "offset", "penalty", "cycle", "error")
    rows = [tuple(trial.get(name) for name in names) for trial in choice.table]
    columns = ("look-back", "season", "model", "offset", "penalty", "cycle", "validation MSE")
    note = (
        f"Chosen: look-back {choice.look_back}, season {choice.season}. Ridge regressions unless a model is named; "
        "with a cycle the mean season of the training part is taken away first."
    )
    return Table(title="What was tried on the validation part", columns=columns, rows=rows, note=note)


def _levels(run: Run) -> str:
    config: ForecastConfig = run.config
    return " and ".join(f"{level:.0%}" for level in config.intervals.levels)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _digits(value: float | None) -> str:
    """Four significant digits: the third decides between good models."""
    return "-" if value is None else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _numbers(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
