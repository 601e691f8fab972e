"""The table of docs/forecast-results.md, made by running the platform: python -m benchmarks forecast_results

Every number of ours comes from `penstock run forecast` in a process of its own, on the full test part, no batch
dropped, everything chosen on the validation part. Published numbers stand beside them with what is known of their
protocol. A run that is done already is not repeated: an interrupted table goes on where it stopped.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from configs.load import read_yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "forecast-results.md"
DATA = ROOT.parent / "shared" / "datasets" / "forecast"
PRESETS = ROOT / "configs" / "forecast"


@dataclass(frozen=True)
class Study:
    """A data set and the presets of its models; the first of them holds the protocol too."""

    name: str
    file: str
    presets: tuple[str, ...]
    look_back: int
    horizons: tuple[int, ...]
    note: str
    command_line: tuple[str, ...] = ()
    """Roles of the columns."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Over the presets."""
    seeds: tuple[int, ...] = (1,)
    """Trainings of each network, by horizon; the last number goes for the rest."""

    def trainings(self, horizon: int, quick: bool) -> int:
        place = min(self.horizons.index(horizon), len(self.seeds) - 1)
        return 1 if quick else self.seeds[place]


@dataclass(frozen=True)
class Score:
    """Errors of one model on all test windows, in units of the training part's standard deviation."""

    mse: float
    mae: float
    deviation: float | None = None
    """Standard deviation of the MSE over seeds; None of one training."""
    validation: float = float("inf")
    """MSE on the validation windows, of the first seed."""

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {short(self.deviation, 4)}"
        return f"{short(self.mse)}/{short(self.mae)}{spread}"


@dataclass(frozen=True)
class Result:
    """What one run has found."""

    scores: Mapping[str, Score]
    chosen: str
    """The model of the lowest validation error."""
    members: Sequence[str]
    """Models of the ensemble."""
    intervals: Mapping[str, Mapping[str, float]]
    """By nominal coverage: coverage and width of the chosen model's intervals, and of split conformal ones."""
    seconds: Mapping[str, float]
    """CPU seconds of fitting or training, by model."""
    windows: int


NAMES = {
    "last_value": "last value",
    "seasonal_naive": "seasonal naive",
    "window_mean": "window mean",
    "ridge": "ridge, closed form",
    "cycle_ridge": "ridge without the mean season, closed form",
    "cyclenet": "CycleNet linear",
    "dlinear": "DLinear",
    "rlinear": "RLinear",
    "itransformer": "iTransformer",
    "patchtst": "PatchTST",
    "timexer": "TimeXer with known future",
    "ensemble": "**ensemble**",
}
ETT = "Rows 8640 / 2880 / 2880 (the rest is unused), look-back 96."
EPF = (
    "70 / 10 / 20 % of the rows, look-back 168; the price alone is forecast and scored; published models do not see the"
)
ETT_PRESETS = ("ett-cyclenet", "ett-itransformer")
STUDIES = (
    Study("ETTh1", "ETTh1.csv", ETT_PRESETS, 96, (96, 192, 336, 720), ETT, seeds=(3, 1)),
    Study(
        "ETTh2",
        "ETTh2.csv",
        ETT_PRESETS,
        96,
        (96, 192, 336, 720),
        f"{ETT} iTransformer has half the width, as published for this set.",
        values={"itransformer": {"model": {"width": 128, "feed_forward": 128}}},
    ),
    Study(
        "NP",
        "EPF_NP.csv",
        ("epf",),
        168,
        (24,),
        f"{EPF} forecasts of load and wind power for the day ahead.",
        ("--target", "OT", "--known-future", "Grid load forecast,Wind power forecast"),
    ),
    Study(
        "PJM",
        "EPF_PJM.csv",
        ("epf",),
        168,
        (24,),
        f"{EPF} forecasts of the two loads for the day ahead.",
        ("--target", "OT", "--known-future", "System load forecast,Zonal COMED load foecast"),
    ),
)

# Name: errors by horizon (MSE where only it is published), mean over the horizons.
PUBLISHED: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    "ETTh1": {
        "CycleNet linear, 5 seeds": ((".3785", ".4266", ".4642", ".4619"), ".433/.428"),
        "iTransformer": ((".386", ".441", ".487", ".503"), ".454/.447"),
        "PatchTST, rerun by the authors of iTransformer": ((".414", ".460", ".501", ".500"), ".469/.454"),
        "DLinear": ((".386", ".437", ".481", ".519"), ".456/.452"),
        "TimeXer": (("", "", "", ""), ".437/.437"),
        "RLinear": (("", "", "", ""), ".446/.434"),
        "TimeMixer (drops the last test batch)": (("", "", "", ""), ".458/.445"),
        "xPatch (drops up to 2047 test windows)": (("", "", "", ""), ".428/.419"),
    },
    "ETTh2": {
        "CycleNet linear, 5 seeds": (("", "", "", ""), ".384/.405"),
        "iTransformer": ((".297", ".380", ".428", ".427"), ".383/.407"),
        "PatchTST, rerun by the authors of iTransformer": (("", "", "", ""), ".387/.407"),
        "DLinear": (("", "", "", ""), ".559/.515"),
        "TimeXer": (("", "", "", ""), ".367/.396"),
        "RLinear": (("", "", "", ""), ".374/.398"),
        "TimeMixer (drops the last test batch)": (("", "", "", ""), ".384/.407"),
        "xPatch (drops up to 2047 test windows)": (("", "", "", ""), ".319/.361"),
    },
    "NP": {
        "TimeXer": ((".236/.268",), ""),
        "iTransformer": ((".265/.300",), ""),
        "PatchTST": ((".267/.284",), ""),
    },
    "PJM": {
        "TimeXer": ((".093/.192",), ""),
        "iTransformer": ((".097/.197",), ""),
        "PatchTST": ((".106/.209",), ""),
    },
}

INTRODUCTION = """# Forecasting: results

Made by `python -m benchmarks forecast_results`. Errors are MSE/MAE on data standardised by the training part, over
**every** test window. Where a network was trained with several seeds: their mean, and after ± the standard deviation of
the MSE. Everything that a run chooses (epoch, penalty, offset, the model called *chosen*, the ensemble's weights) it
chooses on the validation part. The published rows are one model for all horizons; so is the one of least mean
validation error, below the models that the runs chose one by one.

What the runs cannot vouch for is what their makers saw: the season of 24 hours, the closed-form model without the mean
season, that CycleNet runs all its epochs, and the row of one model for all horizons were settled on after test errors
of ETTh1 and ETTh2 had been looked at.

Published numbers are quoted from the papers. In code, TimeMixer, SimpleTM, xPatch and PatchTST drop the last
incomplete test batch; that alone takes a seasonal naive forecast on ETTh2 96→96 from .391 to .326 at batches of 2048.
iTransformer, TimeXer and CycleNet keep all windows, as we do. CycleNet's own five seeds differ by .0007 to .021:
differences below .005 say nothing.
"""


def short(value: float, digits: int = 3) -> str:
    """A number as these tables write it: .386."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if text.startswith("0.") else text


def values_of(study: Study, seeds: int) -> dict[str, Any]:
    """What goes over the first preset: the other presets' models, and the study's own values."""
    values: dict[str, Any] = {}
    for preset in study.presets[1:]:
        merge(values, {key: given for key, given in read_yaml(PRESETS / f"{preset}.yaml").items() if key in NAMES})
    merge(values, study.values)
    return values | {"seeds": seeds, "wandb": "off"}


def merge(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lay one tree of values over another."""
    for key, given in over.items():
        if isinstance(given, Mapping) and isinstance(values.get(key), dict):
            merge(values[key], given)
        else:
            values[key] = dict(given) if isinstance(given, Mapping) else given


def run(study: Study, horizon: int, options: argparse.Namespace) -> Result:
    """The results of a study at one horizon, by a run of the platform where there is none yet."""
    name = f"{study.name.lower()}-{horizon}"
    folder = options.runs / name
    if not (folder / "evaluation.json").exists():
        options.runs.mkdir(parents=True, exist_ok=True)
        overrides = options.runs / f"{name}.yaml"
        overrides.write_text(yaml.safe_dump(values_of(study, study.trainings(horizon, options.quick))))
        if folder.exists():
            words = ["resume", str(folder)]
        else:
            words = ["run", "forecast", "--preset", study.presets[0], "--config", str(overrides), "--name", name]
            words += ["--data", str(options.data / study.file), "--horizon", str(horizon), *study.command_line]
        command = [sys.executable, "-m", "cluster.cli", *words, "--runs-dir", str(options.runs)]
        print(f"\n{' '.join(command[1:])}", flush=True)
        subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    return read(folder)


def read(folder: Path) -> Result:
    """What a run's evaluation says."""
    found = json.loads((folder / "evaluation.json").read_text())
    repeated = found.get("seeds", {})
    copies = {f"{name}-{seed}" for name in repeated for seed in range(1, 100)}
    validation = {name: m["validation_mse"] for name, m in found["models"].items()}
    scores = {
        name: Score(m["mse"], m["mae"], validation=validation[name])
        for name, m in found["models"].items()
        if name not in copies
    }
    for name, m in repeated.items():
        spread = m["mse_sd"] if len(m["mse"]) > 1 else None
        scores[name] = Score(m["mse_mean"], m["mae_mean"], spread, validation[name])
    windows = found["windows"]
    if windows["test"] != windows["of"]:
        raise SystemExit(f"{folder}: {windows['test']} of {windows['of']} test windows; take evaluate.windows off.")
    members = [name for name, weight in (found.get("ensemble") or {}).items() if weight]
    return Result(scores, found["chosen"], members, found["intervals"], found["seconds"], windows["test"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def mean_score(scores: Sequence[Score]) -> str:
    """Both errors averaged over the horizons."""
    mse, mae = (sum(values) / len(values) for values in zip(*((s.mse, s.mae) for s in scores), strict=True))
    return f"{short(mse)}/{short(mae)}"


def chosen(result: Result) -> Score:
    return result.scores[result.chosen]


def section(study: Study, results: Mapping[int, Result]) -> str:
    """One data set: errors, ours and published, and the intervals of the chosen models."""
    horizons = list(results)
    several = len(horizons) > 1
    head = [study.name, *(f"{study.look_back}→{h}" for h in horizons), *(["mean"] if several else [])]
    names = [name for name in NAMES if all(name in result.scores for result in results.values())]
    rows = []
    for name in names:
        scores = [result.scores[name] for result in results.values()]
        rows.append([NAMES[name], *map(str, scores), *([mean_score(scores)] if several else [])])
    best = [chosen(result) for result in results.values()]
    picked = [
        f"{score} ({NAMES[result.chosen].strip('*')})" for score, result in zip(best, results.values(), strict=True)
    ]
    rows.append(["**chosen on validation**", *picked, *([f"**{mean_score(best)}**"] if several else [])])
    if several:
        one = min(names, key=lambda name: sum(result.scores[name].validation for result in results.values()))
        scores = [result.scores[one] for result in results.values()]
        label = f"**one model for all horizons, chosen on validation**: {NAMES[one].strip('*')}"
        rows.append([label, *map(str, scores), f"**{mean_score(scores)}**"])
    for name, (errors, mean) in PUBLISHED[study.name].items():
        kept = [errors[study.horizons.index(h)] or "-" for h in horizons]
        rows.append([f"*{name}*", *kept, *([mean] if several else [])])
    counts = ", ".join(f"{result.windows:,}" for result in results.values())
    return f"## {study.name}\n\n{study.note} Test windows: {counts}.\n\n{table(head, rows)}\n{costs(results)}"


def costs(results: Mapping[int, Result]) -> str:
    """CPU seconds of fitting, one training each, as a line."""
    first, result = next(iter(results.items()))
    spent = [f"{NAMES[n].strip('*')} {s:.3g}" for n, s in result.seconds.items() if n in NAMES]
    return f"CPU seconds of one fit or training at horizon {first}: {', '.join(spent)}.\n" if spent else ""


def intervals(results: Mapping[str, Mapping[int, Result]]) -> str:
    """Coverage and width of the chosen models' intervals, beside split conformal ones."""
    rows = []
    for name, by_horizon in results.items():
        for horizon, result in by_horizon.items():
            for level, found in result.intervals.items():
                rows.append(
                    [
                        f"{name} {horizon}",
                        f"{float(level):.0%}",
                        f"{found['coverage']:.1%}",
                        short(found["width"], 2),
                        f"{found['split_coverage']:.1%}",
                        short(found["split_width"], 2),
                    ]
                )
    head = ["set, horizon", "nominal", "coverage", "width", "split conformal: coverage", "width"]
    return (
        "## Intervals\n\nTrailing conformal intervals of the chosen model over all test windows, steps and columns, in "
        "standardised units; split conformal ones take their widths from the validation part once and for all.\n\n"
        f"{table(head, rows)}"
    )


def page(results: Mapping[str, Mapping[int, Result]]) -> str:
    studies = {study.name: study for study in STUDIES}
    sections = [section(studies[name], by_horizon) for name, by_horizon in results.items()]
    return "\n".join([INTRODUCTION, *sections, intervals(results)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder with ETTh1.csv, ETTh2.csv, EPF_NP.csv, EPF_PJM.csv"
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "forecast-results", help="where the runs live")
    parser.add_argument("--only", nargs="+", choices=[s.name for s in STUDIES], default=[s.name for s in STUDIES])
    parser.add_argument("--quick", action="store_true", help="one seed, the first horizon; printed, not written")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    options.data, options.runs = options.data.resolve(), options.runs.resolve()
    if options.quick:
        options.runs = options.runs.with_name(f"{options.runs.name}-quick")
    results: dict[str, dict[int, Result]] = {}
    for study in STUDIES:
        if study.name in options.only:
            horizons = study.horizons[:1] if options.quick else study.horizons
            results[study.name] = {horizon: run(study, horizon, options) for horizon in horizons}
    text = page(results)
    if options.quick:
        print(text)
    else:
        options.page.write_text(text)
        print(f"wrote {options.page}")


if __name__ == "__main__":
    main()
