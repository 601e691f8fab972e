"""Labels of whole sequences: prepared, trained on, and measured on the sequences that the source sets apart."""

import csv
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.forecast import ForecastConfig
from configs.forecast.tasks import ClassifierSection
from data.atomic import written_file
from data.errors import ConfigError
from data.forecast.sequences import SequenceDataset, SequenceScaling, prepare_sequences, sequences_key
from flows.models import load_model
from flows.report import Headline, Section, Table, report_of_run, write_report
from flows.run import Run, write_json
from flows.steps.forecast_results import read_evaluation

STAGE = "classifier"
BATCH = 64


def prepare(run: Run) -> None:
    """Read the .ts files, or make the synthetic sequences."""
    config, section = run.config, _section(run)
    source = section.synthetic if config.data is None else Path(config.data)
    with run.prepared(sequences_key(source)[:16]) as folder:
        path = prepare_sequences(source, folder)
    data = SequenceDataset(path, section.split)
    counts = {name: len(items) for name, items in data.splits.items()}
    print(f"{len(data)} sequences of {data.features} features and {len(data.classes)} classes: {counts}", flush=True)
    run.record_data(
        path,
        data.fingerprint,
        source="synthetic sequences" if config.data is None else config.data,
        sequences=len(data),
    )


def train(run: Run) -> None:
    """Train the classifier; the test sequences take no part, not even in choosing the weights."""
    from data.datamodule import ItemDataModule
    from flows.steps.training import train as train_stage
    from modules.forecast.classifier_training import ClassifierTraining

    config, section = run.config, _section(run)
    samples = SequenceDataset(run.data_file, section.split)
    network = replace(section.network, features=samples.features, length=samples.longest, classes=len(samples.classes))
    trainer = section.trainer
    data = ItemDataModule(samples, section.split, trainer.batch_size, config.seed, trainer.workers, test=samples.test)
    extra = {"classes": list(samples.classes), "scaling": asdict(samples.scaling)}
    training = replace(section, network=network)
    train_stage(run, STAGE, lambda: ClassifierTraining(training), data, trainer, network=network, extra=extra)


def evaluate(run: Run) -> None:
    """Accuracy on the test sequences, and what was taken for what: evaluation.json."""
    section = _section(run)
    loaded = load_model(run.model(STAGE))
    scaling = SequenceScaling.from_plain(loaded.config["scaling"])
    data = SequenceDataset(run.data_file, section.split, scaling=scaling)
    result: dict[str, Any] = {"task": run.config.task, "classes": list(data.classes)}
    for split in ("validation", "test"):
        items = [item for item in data.splits[split] if data.labels[item] >= 0]
        if not items:
            continue
        found = _probabilities(loaded.network, data, items)
        labels = np.array([data.labels[item] for item in items])
        said = found.argmax(axis=1)
        confusion = np.zeros((len(data.classes), len(data.classes)), int)
        np.add.at(confusion, (labels, said), 1)
        result[split] = {
            "accuracy": float((said == labels).mean()),
            "sequences": len(items),
            "confusion": confusion.tolist(),
        }
    write_json(run.path / "evaluation.json", result)


def export(run: Run) -> None:
    """Class and probabilities of every sequence: exports/labels.csv."""
    loaded = load_model(run.model(STAGE))
    scaling = SequenceScaling.from_plain(loaded.config["scaling"])
    data = SequenceDataset(run.data_file, _section(run).split, scaling=scaling)
    found = _probabilities(loaded.network, data, list(range(len(data))))
    split_of = {item: name for name, items in data.splits.items() for item in items}
    with written_file(run.exports / "labels.csv") as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "split", "label", "predicted", *(f"p({name})" for name in data.classes)])
        for item, row in enumerate(found):
            label = data.classes[data.labels[item]] if data.labels[item] >= 0 else ""
            table.writerow([data.ids[item], split_of[item], label, data.classes[row.argmax()], *row.round(6).tolist()])


def report(run: Run) -> None:
    """Write report.html."""
    evaluation = read_evaluation(run)
    classes, sections = evaluation["classes"], []
    headlines = []
    for split in ("test", "validation"):
        if split not in evaluation:
            continue
        found = evaluation[split]
        headlines.append(Headline(label=f"{split} accuracy", value=f"{found['accuracy']:.1%}"))
        rows = [(name, *row) for name, row in zip(classes, found["confusion"], strict=True)]
        note = f"Rows: the class of the {found['sequences']} sequences. Columns: what they were taken for."
        sections.append(Table(title=f"Confusion, {split}", columns=("class", *classes), rows=rows, note=note))
    listed: list[Section] = list(sections)
    summary = "The weights were chosen without the test sequences."
    page = report_of_run(run.path, listed, headlines=headlines, summary=summary, domain=run.domain_name)
    write_report(run.path / "report.html", page)


def _section(run: Run) -> ClassifierSection:
    config: ForecastConfig = run.config
    if config.classifier is None:
        raise ConfigError("task classify needs the section 'classifier'; take --preset vowels, or give it settings.")
    return config.classifier


def _probabilities(network: torch.nn.Module, data: SequenceDataset, items: list[int]) -> np.ndarray:
    """Probability of every class [item, class]."""
    parts = []
    with torch.inference_mode():
        for first in range(0, len(items), BATCH):
            batch = data.collate([data.load(item, 0) for item in items[first : first + BATCH]])
            parts.append(network(batch).softmax(dim=-1))
    return torch.cat(parts).numpy()
