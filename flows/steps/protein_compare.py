"""The base and the rectified model side by side: how good each is at few and at many steps."""

import json
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.load import to_plain
from configs.protein import ProteinConfig
from data.protein import ProteinSamples
from flows.items import Loaded, done_items, parts_folder
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
    work = Comparing(run, parts_folder(run, "comparing", _words(run, samples)), tuple(lengths), reference)
    cells = [(stage, steps) for stage in MODELS for steps in wanted.steps]
    done_items(
        "compare",
        "sets",
        cells,
        work.part,
        work,
        preload="flows.steps.protein_compare",
        network=True,
        tell=lambda score: {"score": score},
    )
    rows: list[dict[str, Any]] = [json.loads(work.part(cell).read_text()) for cell in cells]
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
    shutil.rmtree(work.parts)
    with tracked(run, "compare") as tracker:
        tracker.log({f"compare/{row['model']}/{row['steps']}": row["score"] for row in rows})


@dataclass(frozen=True)
class Comparing(Loaded):
    """Draws one set of samples, by one model at one number of steps, and writes its row of the table."""

    run: Run
    parts: Path
    lengths: tuple[int, ...]
    reference: StructureTable

    @cached_property
    def networks(self) -> dict[str, ProteinNetwork]:
        return {stage: load_network(self.run, stage) for stage in MODELS}

    def part(self, cell: tuple[str, int]) -> Path:
        return self.parts / f"{cell[0]}-{cell[1]}.json"

    def __call__(self, cell: tuple[str, int]) -> float:
        stage, steps = cell
        config: ProteinConfig = self.run.config
        drawn = sample_backbones(
            self.networks[stage],
            replace(config.sample, steps=steps, repulsion=config.compare.repulsion),
            seed=config.seed,
            indices=range(len(self.lengths)),
            lengths=self.lengths,
        )
        made = [to_backbone(found.frames) for found in drawn]
        row = _row(structure_table(made, secondary_of(made)), self.reference, stage, steps)
        write_json(self.part(cell), row)
        return float(row["score"])


def _words(run: Run, samples: ProteinSamples) -> list[Any]:
    config: ProteinConfig = run.config
    words = [to_plain(config.compare), sampling_of(config.sample), config.seed, samples.fingerprint]
    return words + [fingerprint(run, stage) for stage in MODELS]


def _noise_table(lengths: list[int], seed: int) -> StructureTable:
    """What the samples start from, the control that every model must leave far behind."""
    made = [to_backbone(noise_frames(seed, k, length)) for k, length in enumerate(lengths)]
    return structure_table(made, secondary_of(made))


def _row(table: StructureTable, reference: StructureTable, stage: str, steps: int) -> dict[str, Any]:
    score = structure_score(table, reference)
    return {"model": MODELS.get(stage, stage), "steps": steps, "score": score, "values": _shown(table)}


def _shown(table: StructureTable) -> dict[str, float]:
    return {name: table.values[name] for name in SHOWN if name in table.values}
