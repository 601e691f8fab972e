"""How generated backbones stand beside real ones, with controls; nothing here folds a sequence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.batch import Backbone
from data.errors import PenstockError
from data.protein.secondary_structure import assign
from flows.items import plain_answers
from flows.progress import Progress
from flows.steps.protein_judge import ask_judge
from modules.protein.controls import SEPARATES, make_controls
from modules.protein.measures import measure
from modules.protein.metrics import (
    DISTANCES,
    ROWS,
    StructureTable,
    distances,
    floor,
    score_interval,
    score_terms,
    structure_score,
    structure_table,
)
from modules.protein.similarity import SAME_FOLD, diversity, nearest_training

NOT_MEASURED = (
    "not measured: no judge was plugged in (pairs.judge). Nothing in these numbers says whether a sequence would fold "
    "into one of these backbones."
)
LENGTHS = (60, 100, 150, 200, 300)
"""Edges of the groups of the table by length."""
MOST_CONTROLS = 60
TOLD_APART = 3.0
"""A metric tells a control from real chains where its distance is so many times that of real chains."""


def evaluate_sets(
    generated: Mapping[str, Backbone],
    reference: Sequence[Backbone],
    training: Mapping[str, Backbone],
    *,
    bootstrap: int = 500,
    tm_pairs: int = 200,
    tm_training: int = 10,
    seed: int = 0,
    judge: str | None = None,
    judge_seconds: float = 600.0,
    parts: Path | None = None,
) -> dict[str, Any]:
    """Everything that evaluation.json says of a set of samples, plain values throughout.

    Args:
        generated: the samples by name. Of several chains the first is measured, as the reference has single chains.
        reference: real chains that the samples should be like, of about their lengths.
        training: what the model learnt from, by name; each sample's nearest is looked for there.
        bootstrap: resamplings for the confidence intervals; 0 leaves them out.
        tm_pairs: most pairs of samples that are aligned for the diversity; 0 leaves it out.
        tm_training: most training chains that are aligned in full with each sample, of those that fit best without
            gaps; 0 leaves memorisation out.
        judge: command of an external judge, see `flows.steps.protein_judge`.
        parts: folder that keeps what was found of each sample, for a killed evaluation to go on with.

    Raises:
        PenstockError: no reference, tmtools is missing, or the judge fails.
    """
    if not len(reference):
        raise PenstockError("expected real chains to hold the samples against, got none.")
    whole, unusable = _usable(generated)
    chains = {name: _first_chain(backbone) for name, backbone in whole.items()}
    real = structure_table(reference, [assign(backbone) for backbone in reference])
    result: dict[str, Any] = {
        "samples": _overview(generated, chains, unusable),
        "designability": NOT_MEASURED if judge is None else _judged(whole, judge, judge_seconds, parts),
        "controls": _controls(reference, seed),
        "reference": {"chains": real.chains, "values": real.values, "intervals": _intervals(real, bootstrap, seed)},
        "definitions": _definitions(),
    }
    if not chains:
        return result
    members = list(chains.values())
    table = structure_table(members, [assign(backbone) for backbone in members])
    result |= {
        "structure": {"values": table.values, "intervals": _intervals(table, bootstrap, seed)},
        "by_length": _by_length(table, real),
        "score": _score(table, real, bootstrap, seed),
        "distances": distances(table, real),
    }
    if tm_pairs:
        result["diversity"] = _diversity(members, reference, tm_pairs, seed)
    if tm_training and training:
        result["memorisation"] = _memorisation(chains, training, tm_training, parts)
    complexes = {name: backbone for name, backbone in whole.items() if backbone.chain.max() > 0}
    if complexes:
        free = [measure(backbone).numbers["clash_free"] for backbone in complexes.values()]
        result["complexes"] = {"count": len(complexes), "clash_free": float(np.mean(free))}
    return result


def _usable(generated: Mapping[str, Backbone]) -> tuple[dict[str, Backbone], dict[str, str]]:
    """The samples that can be measured, and why the others cannot."""
    good, bad = {}, {}
    for name, backbone in generated.items():
        try:
            measure(_first_chain(backbone))
            good[name] = backbone
        except PenstockError as error:
            bad[name] = str(error)
    return good, bad


def _first_chain(backbone: Backbone) -> Backbone:
    if not len(backbone) or backbone.chain[-1] == backbone.chain[0]:
        return backbone
    keep = backbone.chain == backbone.chain[0]
    parts = {name: getattr(backbone, name)[keep] for name in ("atoms", "present", "residue_index", "residue_type")}
    motif = None if backbone.motif is None else backbone.motif[keep]
    return replace(backbone, **parts, chain=np.zeros(int(keep.sum()), backbone.chain.dtype), motif=motif)


def _overview(
    generated: Mapping[str, Backbone], chains: Mapping[str, Backbone], unusable: Mapping[str, str]
) -> dict[str, Any]:
    lengths = [len(backbone) for backbone in chains.values()]
    return {
        "asked": len(generated),
        "measured": len(chains),
        "shortest": min(lengths, default=None),
        "longest": max(lengths, default=None),
        "unusable": dict(unusable),
    }


def _intervals(table: StructureTable, bootstrap: int, seed: int) -> dict[str, list[float]]:
    if not bootstrap:
        return {}
    return {name: list(ends) for name, ends in table.intervals(resamples=bootstrap, seed=seed).items()}


def _score(table: StructureTable, real: StructureTable, bootstrap: int, seed: int) -> dict[str, Any]:
    """The score; what as many real chains get; the interval over samples."""
    found: dict[str, Any] = {
        "value": structure_score(table, real),
        "floor": floor(real, table.chains, seed=seed).get("score") if real.chains > 1 else None,
        "terms": score_terms(table, real),
    }
    if bootstrap and table.chains > 1:
        found["interval"] = list(score_interval(table, real, resamples=min(bootstrap, 100), seed=seed))
    return found


def _by_length(table: StructureTable, real: StructureTable) -> dict[str, Any]:
    others = real.by_length(LENGTHS)
    return {
        name: {
            "chains": group.chains,
            "values": group.values,
            "reference": others[name].values if name in others else None,
        }
        for name, group in table.by_length(LENGTHS).items()
    }


def _controls(reference: Sequence[Backbone], seed: int) -> dict[str, Any]:
    """Score and distances of the controls against real chains that they were not made from, and which metrics tell each
    control apart; empty where the reference is too small to be halved."""
    if len(reference) < 8:
        return {}
    order = np.random.default_rng(seed).permutation(len(reference))
    few = min(len(order) // 2, MOST_CONTROLS)
    held = [reference[k] for k in order[few:]]
    real = structure_table(held, [assign(backbone) for backbone in held])
    found: dict[str, Any] = {}
    for name, members in make_controls([reference[k] for k in order[:few]], seed).items():
        table = structure_table(members, [assign(backbone) for backbone in members])
        found[name] = {"score": structure_score(table, real), "distances": distances(table, real)}
        if name in SEPARATES:
            seen = [
                metric
                for metric in SEPARATES[name]
                if found[name]["distances"][metric] > TOLD_APART * found["real"]["distances"][metric]
            ]
            found[name] |= {"told_apart": seen, "missed": [m for m in SEPARATES[name] if m not in seen]}
    return found


def _diversity(members: Sequence[Backbone], reference: Sequence[Backbone], pairs: int, seed: int) -> dict[str, Any]:
    found = diversity(members, most_pairs=pairs, seed=seed, report=_told("diversity", "pairs"))
    real = diversity(reference, most_pairs=min(pairs, 100), seed=seed)
    return {"samples": asdict(found) if found else None, "reference": asdict(real) if real else None}


@dataclass(frozen=True)
class Memory:
    """Finds the training chain most like a sample."""

    chains: Mapping[str, Backbone]
    training: Sequence[Backbone]
    aligned: int

    def __call__(self, name: str) -> dict[str, Any]:
        return asdict(nearest_training([self.chains[name]], self.training, aligned=self.aligned)[0])


def _memorisation(
    chains: Mapping[str, Backbone], training: Mapping[str, Backbone], aligned: int, parts: Path | None
) -> dict[str, Any]:
    """For each sample the training chain most like it."""
    usable = {name: backbone for name, backbone in training.items() if backbone.resolved.sum() >= 4}
    names = list(usable)
    work = Memory(chains, list(usable.values()), aligned)
    found = plain_answers("nearest training chain", "samples", list(chains), work, parts, preload=__name__)
    scores = np.array([one["score"] for one in found])
    return {
        "training": len(names),
        "mean": float(scores.mean()),
        "max": float(scores.max()),
        "same_fold": float((scores > SAME_FOLD).mean()),
        "nearest": {
            sample: {"chain": names[one["training"]], "tm": one["score"]}
            for sample, one in zip(chains, found, strict=True)
        },
    }


@dataclass(frozen=True)
class Asking:
    """Asks the external judge about a sample."""

    samples: Mapping[str, Backbone]
    judge: str
    seconds: float

    def __call__(self, name: str) -> dict[str, Any]:
        opinion = ask_judge(self.judge, self.samples[name], timeout=self.seconds)
        return {"accept": opinion.accept, "score": opinion.score}


def _judged(samples: Mapping[str, Backbone], judge: str, seconds: float, parts: Path | None) -> dict[str, Any]:
    work = Asking(samples, judge, seconds)
    # As a rule a judge runs networks.
    found = plain_answers("judge", "samples", list(samples), work, parts, preload=__name__, network=True)
    scores = [one["score"] for one in found if one["score"] is not None]
    return {
        "judge": judge,
        "accepted": sum(one["accept"] for one in found),
        "of": len(found),
        "mean_score": float(np.mean(scores)) if scores else None,
        "samples": dict(zip(samples, found, strict=True)),
    }


def _told(what: str, unit: str) -> Callable[[int, int], None]:
    shown: list[Progress] = []

    def report(done: int, total: int) -> None:
        if not shown:
            shown.append(Progress(what, total, unit))
        shown[0].update(done)

    return report


def _definitions() -> dict[str, dict[str, str]]:
    rows = {name: {"unit": r.unit, "definition": r.definition, "better": r.better} for name, r in ROWS.items()}
    gaps = {
        f"distance of {name}": {"unit": d.unit, "definition": d.definition, "better": "lower"}
        for name, d in DISTANCES.items()
    }
    return rows | gaps
