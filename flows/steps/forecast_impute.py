"""Gaps of series filled in: trained on hidden steps, measured on hidden steps of the test part, written apart."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from configs.forecast import ForecastConfig
from data.export.forecast import write_table
from flows.report import Headline, Section, Table, report_of_run, write_report
from flows.run import Run, write_json
from flows.steps.forecast_backtest import plain
from flows.steps.forecast_charts import gap_chart
from flows.steps.forecast_models import network_of
from flows.steps.forecast_results import read_evaluation
from flows.steps.forecast_tables import step_stamps
from flows.steps.forecast_train import places
from flows.steps.forecast_workbench import BATCH, Workbench, workbench
from flows.tracking import tracked
from modules.forecast.imputation import FLOORS, Fill, network_fill
from modules.forecast.training import hidden_steps
from modules.layers.random import mix

HIDDEN, BLOCK = 0.25, 8
"""Share of the test steps that is hidden, and how many steps together."""
FILLED = "imputed.npz"
SHOWN_STEPS = 200
"""Of a gap and what is around it, sent to W&B."""


def evaluate(run: Run) -> None:
    """Error of every filling on hidden steps of the test windows, the same for all: evaluation.json."""
    config, bench = run.config, workbench(run)
    fills, rows = _fills(run, bench), bench.rows("test", run.config.evaluate.windows)
    sums = {name: np.zeros(2) for name in fills}
    count = 0
    for number, batch in enumerate(bench.batches(rows)):
        seeds = torch.tensor([mix(config.seed, number * BATCH + k) for k in range(len(batch))])
        measured = torch.ones_like(batch.past, dtype=torch.bool) if batch.past_mask is None else batch.past_mask
        hidden = hidden_steps(seeds, batch.past.shape[1:], HIDDEN, BLOCK) & measured
        seen = measured & ~hidden
        window = replace(batch, past=batch.past.masked_fill(~seen, 0.0), past_mask=seen, future=None, future_mask=None)
        count += int(hidden.sum())
        for name, fill in fills.items():
            missed = (fill(window) - batch.past)[hidden].double()
            sums[name] += np.array([float(missed.square().sum()), float(missed.abs().sum())])
    scores = {
        name: {"mse": float(s[0] / max(count, 1)), "mae": float(s[1] / max(count, 1))} for name, s in sums.items()
    }
    result = {
        "task": config.task,
        "windows": {"test": len(rows), "of": rows.of},
        "hidden": count,
        "models": scores,
        # Floors are there to be beaten: a filling is chosen among what was trained.
        "chosen": min((n for n in scores if n not in FLOORS), key=lambda n: scores[n]["mse"], default="interpolation"),
    }
    write_json(run.path / "evaluation.json", plain(result))


def _fills(run: Run, bench: Workbench) -> dict[str, Fill]:
    config: ForecastConfig = run.config
    found = dict(FLOORS)
    for name in config.networks:
        for place, _, _ in places(config, name):
            found[place] = network_fill(network_of(run, place, bench.shape).eval())
    return found


def sample(run: Run) -> None:
    """Fill every missing target value of every series: samples/imputed.npz. What was measured stays as it is."""
    bench = workbench(run)
    fill = _fills(run, bench)[read_evaluation(run)["chosen"]]
    arrays: dict[str, Any] = {}
    for item in range(len(bench.store.ids)):
        values = bench.store.read(item, "targets", 0, int(bench.store.lengths[item]))
        arrays[f"{item}"] = _filled(bench, item, values, fill)
    with (run.samples / FILLED).open("wb") as file:
        np.savez(file, **arrays)
    with tracked(run, "sample") as tracker:
        tracker.log_pictures({"imputed": lambda: _picture(bench, arrays)})


def _picture(bench: Workbench, filled: dict[str, Any]) -> str:
    """The first gap of the data, what was measured around it, and what fills it."""
    for item in range(len(bench.store.ids)):
        measured = bench.store.read(item, "targets", 0, int(bench.store.lengths[item]))
        steps, targets = np.nonzero(np.isnan(measured))
        if len(steps):
            around = slice(max(int(steps[0]) - SHOWN_STEPS // 2, 0), int(steps[0]) + SHOWN_STEPS // 2)
            target = int(targets[0])
            return gap_chart(measured[around, target], filled[f"{item}"][around, target], around.start)
    return "<p>nothing is missing</p>"


def _filled(bench: Workbench, item: int, values: np.ndarray, fill: Fill) -> np.ndarray:
    """The series [step, target] with its gaps filled, window after window; the first one may reach before its begin."""
    length, size = len(values), bench.shape.look_back
    ends = np.arange(length, 0, -size)
    missing = np.isnan(values)
    wanted = [end for end in ends.tolist() if missing[max(end - size, 0) : end].any()]
    found = values.copy()
    for first in range(0, len(wanted), BATCH):
        part = np.array(wanted[first : first + BATCH])
        items = np.full(len(part), item)
        window = bench.windows.cut(items, part, future=False)
        said = bench.scaler.undo(items, fill(window).numpy())
        for end, filling in zip(part.tolist(), said, strict=True):
            begin = max(end - size, 0)
            own = filling[size - (end - begin) :]
            found[begin:end] = np.where(missing[begin:end], own, found[begin:end])
    return found


def export(run: Run) -> None:
    """Every value of every series with a flag for the filled ones: exports/imputed."""
    bench = workbench(run)
    store, targets = bench.store, bench.store.columns["targets"]
    with np.load(run.samples / FILLED) as stored:
        filled = [stored[f"{item}"] for item in range(len(store.ids))]
    missing = [np.isnan(store.read(item, "targets", 0, len(values))) for item, values in enumerate(filled)]
    lengths = np.array([len(values) for values in filled])
    items = np.repeat(np.arange(len(filled)), lengths)
    steps = np.concatenate([np.arange(length) for length in lengths])
    columns = {
        "id": np.repeat(np.array(store.ids, dtype=object)[items], len(targets)),
        "time": np.repeat(step_stamps(store, items, steps), len(targets)),
        "target": np.tile(np.array(targets, dtype=object), len(items)),
        "value": np.concatenate(filled).reshape(-1),
        "filled": np.concatenate(missing).reshape(-1),
    }
    for ending in run.config.export.formats:
        write_table(columns, run.exports / f"imputed.{ending}", zone=store.zone)


def report(run: Run) -> None:
    """Write report.html."""
    evaluation = read_evaluation(run)
    rows = [
        (name.replace("_", " "), scores["mse"], scores["mae"])
        for name, scores in sorted(evaluation["models"].items(), key=lambda pair: pair[1]["mse"])
    ]
    note = (
        f"On {evaluation['hidden']} measured values of the test windows that were hidden from all, in blocks of "
        f"{BLOCK} steps; standardised."
    )
    sections: list[Section] = [Table(title="Fillings", columns=("filling", "MSE", "MAE"), rows=rows, note=note)]
    best = evaluation["chosen"]
    headlines = [
        Headline(label="filled by", value=best),
        Headline(label="MSE", value=evaluation["models"][best]["mse"]),
    ]
    summary = "Gaps filled in; exports/imputed holds every value, with a flag for those that were not measured."
    page = report_of_run(run.path, sections, headlines=headlines, summary=summary, domain=run.domain_name)
    write_report(run.path / "report.html", page)
