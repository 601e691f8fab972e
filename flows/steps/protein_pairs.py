"""Pairs of noise and backbone for rectification: drawn, judged and stored, each resumable pair by pair."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from configs.load import to_plain
from configs.protein import PairsSection, ProteinConfig
from data.couplings import Coupling, Provenance, write_couplings
from data.errors import PenstockError
from data.protein import ProteinSamples
from data.protein.generated import Generated, read_generated, write_generated
from data.protein.secondary_structure import assign
from data.splits import stable_hash
from data.worker_pool import worked
from flows.items import Loaded, done_items
from flows.progress import Progress
from flows.run import Run, write_json
from flows.steps.protein_judge import ask_judge
from flows.steps.protein_networks import chains_at, fingerprint, load_network, reference_chains, to_backbone
from flows.tracking import tracked
from modules.protein.filters import ReferenceRanges, Verdict, judge, reference_ranges
from modules.protein.network import ProteinNetwork
from modules.protein.sampling import sample_backbones

PORTION = 16
"""Pairs drawn between two looks at the clock; all of them are lost by a kill, and drawn again."""
MOST_REFERENCES = 500


def pairs_file(run: Run) -> Path:
    return run.path / "pairs.h5"


def pairs_seed(seed: int) -> int:
    """The seed of the pairs' noise, so that no pair starts where a sample of the run starts."""
    return stable_hash("pairs", seed)


def pairs(run: Run) -> None:
    """Write pairs.h5 with every pair and its verdict, and pairs.json with the count of each reason."""
    config: ProteinConfig = run.config
    parts = run.path / f"pairs-{_key(run)}"
    parts.mkdir(exist_ok=True)
    _draw(run, parts)
    _judge(run, parts)
    verdicts = [json.loads((parts / f"{k:06d}.json").read_text()) for k in range(config.pairs.count)]
    along = _taken_along(verdicts, config.pairs.least)
    for k in along:
        verdicts[k] |= {"accepted": True, "taken_along": True}
    write_couplings(pairs_file(run), _couplings(run, parts, verdicts))
    summary = {
        "drawn": len(verdicts),
        "accepted": sum(verdict["accepted"] for verdict in verdicts) - len(along),
        "taken_along": len(along),
        "judge": config.pairs.judge,
        "reasons": dict(Counter(reason for verdict in verdicts for reason in verdict["kinds"]).most_common()),
    }
    write_json(run.path / "pairs.json", summary)
    print(_sentence(summary), flush=True)
    shutil.rmtree(parts)
    with tracked(run, "pairs") as tracker:
        tracker.log({f"pairs/{name}": summary[name] for name in ("drawn", "accepted", "taken_along")})


def _sentence(summary: dict[str, Any]) -> str:
    text = f"{summary['accepted']} of {summary['drawn']} pairs passed"
    if summary["taken_along"]:
        text += f"; {summary['taken_along']} more are taken along (pairs.least), those that broke the fewest rules"
    return text


def _key(run: Run) -> str:
    """What the parts follow from: other weights or settings make other parts."""
    config: ProteinConfig = run.config
    words = [to_plain(config.pairs), config.seed, fingerprint(run, "flow")]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Drawing(Loaded):
    """Draws some pairs together, and writes each to a file of its own."""

    run: Run
    parts: Path

    @cached_property
    def network(self) -> ProteinNetwork:
        return load_network(self.run, "flow")

    def part(self, index: int) -> Path:
        return self.parts / f"{index:06d}.npz"

    def __call__(self, indices: tuple[int, ...]) -> int:
        config: ProteinConfig = self.run.config
        wanted, seed = config.pairs, pairs_seed(config.seed)
        lengths = [wanted.lengths.of(k, seed) for k in indices]
        for found in sample_backbones(self.network, wanted.sampling, seed=seed, indices=indices, lengths=lengths):
            frames, source = found.frames.cpu().numpy(), found.source.cpu().numpy()
            pair = Generated(to_backbone(found.frames), frames, source, facts={"seed": seed, "index": found.index})
            write_generated(pair, self.part(found.index))
        return len(indices)


def _draw(run: Run, parts: Path) -> None:
    """Draw every pair that has no part yet."""
    count, work = run.config.pairs.count, Drawing(run, parts)
    todo = [k for k in range(count) if not work.part(k).exists()]
    # Whole groups, as samples that are computed together cost no more than the missing ones alone.
    groups = [tuple(group) for _, group in groupby(todo, key=lambda k: k // PORTION)]
    done = count - len(todo)
    progress = Progress("draw", count, "pairs", start=done)
    preload = "flows.steps.protein_pairs"
    for _, drawn in worked(groups, work, 0, crashed=_given_up, preload=preload, network=True):
        done += drawn
        progress.update(done)


def _given_up(indices: tuple[int, ...], reason: str) -> NoReturn:
    raise PenstockError(
        f"draw: pairs {indices[0]} to {indices[-1]} could not be drawn: {reason} What was finished is kept, and the "
        "same command goes on from there; lower pairs.lengths.together, or give it a machine with more memory."
    )


@dataclass(frozen=True)
class Judging:
    """Gives one pair its verdict: the filter's, and where it passes, the external judge's."""

    wanted: PairsSection
    ranges: ReferenceRanges
    parts: Path

    def part(self, index: int) -> Path:
        return self.parts / f"{index:06d}.json"

    def __call__(self, index: int) -> bool:
        backbone = read_generated(self.parts / f"{index:06d}.npz").backbone
        found = judge(backbone, assign(backbone), self.ranges, self.wanted.filter)
        verdict = _verdict(found)
        if found.accepted and self.wanted.judge is not None:
            opinion = ask_judge(self.wanted.judge, backbone, timeout=self.wanted.judge_seconds)
            verdict["measures"]["judge"] = opinion.score
            if not opinion.accept:
                verdict |= {"accepted": False, "reasons": ["the external judge"]}
        verdict["kinds"] = [reason.split(":")[0] for reason in verdict["reasons"]]
        write_json(self.part(index), verdict)
        return bool(verdict["accepted"])


def _judge(run: Run, parts: Path) -> None:
    """Give every pair without one its verdict."""
    config: ProteinConfig = run.config
    wanted, seed = config.pairs, pairs_seed(config.seed)
    if all((parts / f"{k:06d}.json").exists() for k in range(wanted.count)):
        return
    lengths = [wanted.lengths.of(k, seed) for k in range(wanted.count)]
    samples = ProteinSamples(run.data_file)
    chosen = reference_chains(samples, lengths, MOST_REFERENCES, seed)
    work = Judging(wanted, reference_ranges(*chains_at(samples, chosen), wanted.filter), parts)
    passed = 0

    def tell(accepted: bool) -> dict[str, int]:
        nonlocal passed
        passed += accepted
        return {"passed": passed}

    done_items(
        "judge",
        "pairs",
        range(wanted.count),
        work.part,
        work,
        preload="flows.steps.protein_pairs",
        network=wanted.judge is not None,  # which may need the GPU, and as a rule runs networks
        tell=tell,
    )


def _verdict(found: Verdict) -> dict[str, Any]:
    return {"accepted": found.accepted, "reasons": list(found.reasons), "measures": dict(found.measures)}


def _taken_along(verdicts: list[dict[str, Any]], least: float) -> list[int]:
    """The refused pairs that fill the accepted ones up to a share `least` of all: those with the fewest reasons first,
    and of these those with the fewest clashes; never one that an external judge refused, or that cannot be measured."""
    short = int(np.ceil(least * len(verdicts))) - sum(verdict["accepted"] for verdict in verdicts)
    usable = [k for k, v in enumerate(verdicts) if not v["accepted"] and v["measures"] and "judge" not in v["measures"]]
    order = sorted(usable, key=lambda k: (len(verdicts[k]["reasons"]), verdicts[k]["measures"]["atom_clashes"], k))
    return sorted(order[: max(short, 0)])


def _couplings(run: Run, parts: Path, verdicts: list[dict[str, Any]]) -> Iterator[Coupling]:
    config: ProteinConfig = run.config
    weights, sampling = fingerprint(run, "flow"), to_plain(config.pairs.sampling)
    for k, verdict in enumerate(verdicts):
        pair = read_generated(parts / f"{k:06d}.npz")
        extra = {"taken_along": True} if verdict.get("taken_along") else {}
        yield Coupling(
            f"pair-{k:06d}",
            pair.source,
            pair.frames,
            residue_index=pair.backbone.residue_index,
            resolved=np.ones(len(pair.frames), bool),
            provenance=Provenance(
                seed=int(pair.facts["seed"]),
                sample_index=k,
                model=weights,
                sampling=sampling,
                accepted=verdict["accepted"],
                reasons=tuple(verdict["reasons"]),
                measures=verdict["measures"] | extra,
            ),
        )
