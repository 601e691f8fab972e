"""Films: frames to come, by PredFormer, against the films that need no learning."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.forecast import ForecastConfig
from configs.forecast.tasks import FilmsSection
from data.errors import ConfigError
from data.forecast.films import FilmDataset, preparation_key, prepare_films
from data.splits import split_items
from flows.models import load_model
from flows.progress import shown
from flows.report import Figure, Figures, Headline, Section, Table, report_of_run, write_report
from flows.run import Run, write_json
from flows.steps.forecast_results import read_evaluation
from flows.tracking import tracked
from modules.forecast.film_metrics import film_floors, film_scores

STAGE = "predformer"
BATCH = 16
SHOWN = 4


def prepare(run: Run) -> None:
    """Read the user's films, or synthesise moving digits."""
    config, section = run.config, _section(run)
    source = section.synthetic if config.data is None else Path(config.data)
    with run.prepared(preparation_key(source, section.prepare)[:16]) as folder:
        found = prepare_films(source, folder, section.prepare, shown("prepare", "films"))
    print(found.summary(), flush=True)
    origin = "moving digits" if config.data is None else config.data
    run.record_data(found.path, FilmDataset(found.path).fingerprint, source=origin, films=len(found.ids))


def train(run: Run) -> None:
    """Train PredFormer on the training films."""
    from data.datamodule import ItemDataModule
    from flows.steps.training import train as train_stage
    from modules.forecast.predformer_training import PredFormerTraining

    config, section = run.config, _section(run)
    films = FilmDataset(run.data_file)
    time, channels, height, width = films.shape
    network = replace(
        section.network, channels=channels, height=height, width=width, seen=films.seen, predicted=time - films.seen
    )
    trainer = section.trainer
    data = ItemDataModule(films, section.split, trainer.batch_size, config.seed, trainer.workers, groups=films.groups)
    training = replace(section, network=network)
    train_stage(run, STAGE, lambda: PredFormerTraining(training), data, trainer, network=network)


def evaluate(run: Run) -> None:
    """Errors per frame on the test films, of the network and of the floors: evaluation.json."""
    films, items = _test_films(run)
    network = load_model(run.model(STAGE)).network
    sums: dict[str, dict[str, float]] = {}
    for first in range(0, len(items), BATCH):
        batch = films.collate([films.load(item, 0) for item in items[first : first + BATCH]])
        with torch.inference_mode():
            said = {STAGE: network(batch.past), **film_floors(batch.past, batch.future.shape[1])}
        for name, predicted in said.items():
            for key, value in film_scores(predicted, batch.future).items():
                sums.setdefault(name, {}).setdefault(key, 0.0)
                sums[name][key] += value * len(batch) / len(items)
    floor = min((name for name in sums if name != STAGE), key=lambda name: sums[name]["mse"])
    result: dict[str, Any] = {"task": run.config.task, "films": len(items), "models": sums, "floor": floor}
    result["skill"] = 1 - sums[STAGE]["mse"] / sums[floor]["mse"]
    write_json(run.path / "evaluation.json", result)


def export(run: Run) -> None:
    """Seen, true and predicted frames of the test films as arrays: exports/films.npz."""
    films, items = _test_films(run)
    network = load_model(run.model(STAGE)).network
    parts: dict[str, list[np.ndarray]] = {"seen": [], "true": [], "predicted": []}
    for first in range(0, len(items), BATCH):
        batch = films.collate([films.load(item, 0) for item in items[first : first + BATCH]])
        with torch.inference_mode():
            predicted = network(batch.past).clamp(0, 1)
        for name, frames in (("seen", batch.past), ("true", batch.future), ("predicted", predicted)):
            parts[name].append((frames * 255).round().byte().numpy())
    arrays: dict[str, Any] = {name: np.concatenate(part) for name, part in parts.items()}
    np.savez_compressed(run.exports / "films.npz", ids=np.array([films.ids[item] for item in items]), **arrays)
    with tracked(run, "export") as tracker:
        rows = zip(*(arrays[name][:SHOWN] for name in ("seen", "true", "predicted")), strict=True)
        strips = (partial(_strip, *frames) for frames in rows)
        tracker.log_pictures(dict(zip([films.ids[item] for item in items[:SHOWN]], strips, strict=True)))


def report(run: Run) -> None:
    """Write report.html."""
    evaluation = read_evaluation(run)
    rows = [
        (name.replace("_", " "), scores["mse"], scores["mae"], scores["ssim"])
        for name, scores in sorted(evaluation["models"].items(), key=lambda pair: pair[1]["mse"])
    ]
    note = (
        f"Means over the frames of {evaluation['films']} test films; MSE and MAE are sums over the pixels of a frame."
    )
    with np.load(run.exports / "films.npz") as stored:
        strips = [_strip(*(stored[name][k] for name in ("seen", "true", "predicted"))) for k in range(SHOWN)
                  if k < len(stored["ids"])]  # fmt: skip
    figures = [Figure(image=strip, caption="Seen; what came; what was predicted.") for strip in strips]
    sections: list[Section] = [
        Figures(title="Films", figures=figures),
        Table(title="Errors per frame", columns=("prediction", "MSE", "MAE", "SSIM"), rows=rows, note=note),
    ]
    headlines = [
        Headline(label="MSE per frame", value=evaluation["models"][STAGE]["mse"]),
        Headline(label=f"skill against {evaluation['floor']}", value=f"{evaluation['skill']:.1%}"),
    ]
    page = report_of_run(run.path, sections, headlines=headlines, domain=run.domain_name)
    write_report(run.path / "report.html", page)


def _strip(seen: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> bytes:
    """Three rows of frames as the bytes of a PNG, in grey."""
    from imageio.v3 import imwrite

    def row(frames: np.ndarray) -> np.ndarray:
        grey = frames.mean(axis=1).astype(np.uint8)
        return np.concatenate([np.pad(frame, 1, constant_values=96) for frame in grey], axis=1)

    rows = [row(frames) for frames in (seen, true, predicted)]
    width = max(part.shape[1] for part in rows)
    picture = np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in rows])
    png: bytes = imwrite("<bytes>", picture.repeat(2, axis=0).repeat(2, axis=1), extension=".png")
    return png


def _test_films(run: Run) -> tuple[FilmDataset, list[int]]:
    films = FilmDataset(run.data_file)
    split = split_items(films.ids, _section(run).split, films.groups)
    return films, split["test"] or split["validation"]


def _section(run: Run) -> FilmsSection:
    config: ForecastConfig = run.config
    if config.predformer is None:
        raise ConfigError("task films needs the section 'predformer'; take --preset films, or give it settings.")
    return config.predformer
