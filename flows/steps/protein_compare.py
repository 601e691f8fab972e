"""The base and the rectified model side by side: how good each is at few and at many steps."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.load import to_plain
from configs.protein import ProteinConfig
from data.batch import Backbone
from data.protein import ProteinSamples
from flows.progress import Progress
from flows.run import Run, write_json
from flows.steps.protein_networks import (
    chains_at,
    fingerprint,
    load_network,
    reference_chains,
    secondary_of,
    to_backbone,
)
from flows.steps.protein_samples import sampling_of
from flows.tracking import tracked
from modules.protein.metrics import StructureTable, floor, structure_score, structure_table
from modules.protein.network import ProteinNetwork
from modules.protein.sampling import noise_frames, sample_backbones

MOST_REFERENCES = 200
SHOWN = ("ca_breaks", "whole", "clash_free", "left_turns", "helix", "strand", "rg_ratio", "contacts")
"""Numbers of the structure table that the comparison shows beside the score."""
MODELS = {"flow": "base", "reflow": "rectified"}


def comparison_file(run: Run) -> Path:
    return run.path / "comparison.json"


def compare(run: Run) -> None:
    """Write comparison.json: structure score and table of both models at each number of steps, from the same noise.

    Every cell is a file of its own until all are measured, so that a killed comparison goes on where it was.
    """
    config: ProteinConfig = run.config
    wanted, seed = config.compare, config.seed
    lengths = [wanted.lengths.of(k, seed) for k in range(wanted.count)]
    samples = ProteinSamples(run.data_file)
    chosen = reference_chains(samples, lengths, MOST_REFERENCES, seed)
    reference = structure_table(*chains_at(samples, chosen))
    parts = run.path / f"comparing-{_key(run, samples)}"
    progress = Progress("compare", len(MODELS) * len(wanted.steps), "sets")
    rows: list[dict[str, Any]] = []
    for stage in MODELS:
        network = load_network(run, stage)
        for steps in wanted.steps:
            part = parts / f"{stage}-{steps}.json"
            if not part.exists():
                made = _draw(network, run, lengths, steps)
                write_json(part, _row(structure_table(made, secondary_of(made)), reference, stage, steps))
            rows.append(json.loads(part.read_text()))
            progress.update(len(rows), score=rows[-1]["score"])
    result = {
        "samples": wanted.count,
        "repulsion": wanted.repulsion,
        "shortest": min(lengths),
        "longest": max(lengths),
        "reference": {"chains": reference.chains, "values": _shown(reference)},
        "floor": floor(reference, wanted.count, seed=seed).get("score"),
        "noise": _row(_noise_table(lengths, seed), reference, "noise", 0),
        "rows": rows,
    }
    write_json(comparison_file(run), result)
    shutil.rmtree(parts)
    with tracked(run, "compare") as tracker:
        tracker.log({f"compare/{row['model']}/{row['steps']}": row["score"] for row in rows})


def _key(run: Run, samples: ProteinSamples) -> str:
    config: ProteinConfig = run.config
    words = [to_plain(config.compare), sampling_of(config.sample), config.seed, samples.fingerprint]
    words += [fingerprint(run, stage) for stage in MODELS]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]


def _draw(network: ProteinNetwork, run: Run, lengths: list[int], steps: int) -> list[Backbone]:
    config: ProteinConfig = run.config
    drawn = sample_backbones(
        network,
        replace(config.sample, steps=steps, repulsion=config.compare.repulsion),
        seed=config.seed,
        indices=range(len(lengths)),
        lengths=lengths,
    )
    return [to_backbone(found.frames) for found in drawn]


def _noise_table(lengths: list[int], seed: int) -> StructureTable:
    """What the samples start from, the control that every model must leave far behind."""
    made = [to_backbone(noise_frames(seed, k, length)) for k, length in enumerate(lengths)]
    return structure_table(made, secondary_of(made))


def _row(table: StructureTable, reference: StructureTable, stage: str, steps: int) -> dict[str, Any]:
    score = structure_score(table, reference)
    return {"model": MODELS.get(stage, stage), "steps": steps, "score": score, "values": _shown(table)}


def _shown(table: StructureTable) -> dict[str, float]:
    return {name: table.values[name] for name in SHOWN if name in table.values}
