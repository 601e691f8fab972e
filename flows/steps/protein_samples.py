"""New backbones of a protein run, and their files for other programs."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.protein import ProteinConfig
from data.export.backbone import write_backbone, write_trajectory
from data.export.mpnn import write_mpnn_jsonl
from data.protein import assign, read_chains
from data.protein.generated import Generated, read_generated, write_generated
from flows.progress import Progress
from flows.reporting.ribbon import ribbon
from flows.reporting.snapshot import snapshot
from flows.run import Run
from flows.steps.protein_networks import chosen_stage, fingerprint, load_network, to_backbone
from flows.tracking import tracked
from modules.layers.random import mix
from modules.protein.contig import parse_contig
from modules.protein.motif import MotifConstraint, motif_constraint, motif_rmsd, place_motif
from modules.protein.sampling import ProteinSamplingConfig, Sampled, sample_backbones
from modules.protein.symmetry import SymmetricSampling, Symmetry, asymmetry

SHOWN = 8
"""Samples sent to W&B."""
PORTION = 16
"""Samples drawn between two looks at the clock."""


def sample_files(run: Run) -> list[Path]:
    """The lossless files of the run's samples, in order."""
    return sorted(run.samples.glob("sample-*.npz"))


def read_samples(run: Run) -> dict[str, Generated]:
    """The run's samples by name."""
    return {path.stem: read_generated(path) for path in sample_files(run)}


@dataclass(frozen=True)
class Task:
    """One sample to draw."""

    index: int
    length: int
    """Residues in all."""
    constraint: MotifConstraint | SymmetricSampling | None = None


def tasks(config: ProteinConfig) -> list[Task]:
    """What is to be drawn, a function of (seed, sample index) alone for each.

    Raises:
        PenstockError: a motif's file cannot be read, or the contig does not fit it.
    """
    wanted, seed = config.sample, config.seed
    if wanted.motif.file is not None:
        assert wanted.motif.contig is not None
        chains = read_chains(Path(wanted.motif.file))
        contig = parse_contig(wanted.motif.contig)
        total = wanted.motif.total
        motifs = [place_motif(contig, chains, seed=mix(seed, k), total=total) for k in range(wanted.count)]
        return [Task(k, len(motif), motif_constraint(motif, wanted.motif.mode)) for k, motif in enumerate(motifs)]
    lengths = [wanted.lengths.of(k, seed) for k in range(wanted.count)]
    if wanted.symmetry is not None:
        tied = [SymmetricSampling(Symmetry(wanted.symmetry), length) for length in lengths]
        return [Task(k, one.residues, one) for k, one in enumerate(tied)]
    return [Task(k, length) for k, length in enumerate(lengths)]


def sample(run: Run) -> None:
    """Draw new backbones; sample k depends on (seed, k) alone."""
    config: ProteinConfig = run.config
    wanted, seed = config.sample, config.seed
    todo = tasks(config)
    stage = chosen_stage(run, wanted.model)
    network = load_network(run, stage)
    shutil.rmtree(run.samples)  # of an earlier attempt
    progress = Progress("draw", wanted.count, "backbones")
    facts = {"seed": seed, "model": stage, "weights": fingerprint(run, stage), "sampling": sampling_of(wanted)}
    done = 0
    for group in _portions(todo):
        drawn = sample_backbones(
            network,
            wanted,
            seed=seed,
            indices=[task.index for task in group],
            lengths=[task.length for task in group],
            constraint=group[0].constraint,
            trajectory=wanted.trajectory,
        )
        for task, found in zip(group, drawn, strict=True):
            _keep(run, task, found, facts | {"index": task.index})
        done += len(group)
        progress.update(done)
    print(f"drawn by the {'rectified' if stage == 'reflow' else 'base'} model", flush=True)
    _say_motif(run)
    with tracked(run, "sample") as tracker:
        tracker.log_molecules({path.stem: path for path in sorted(run.samples.glob("*.pdb"))[:SHOWN]})
        tracker.log_pictures({path.stem: partial(_picture, path) for path in sample_files(run)[:SHOWN]})


def _picture(path: Path) -> bytes:
    backbone = read_generated(path).backbone
    return snapshot(*ribbon(backbone, assign(backbone)))


def _say_motif(run: Run) -> None:
    """How well the motif was kept, where there is one."""
    config: ProteinConfig = run.config
    if config.sample.motif.file is None:
        return
    apart = [float(found.facts["motif_rmsd"]) for found in read_samples(run).values()]
    print(f"motif RMSD: {sum(apart) / len(apart):.2f} Å on average, {max(apart):.2f} Å at most", flush=True)
    if config.flow.motif_share == 0 and config.sample.motif.mode == "hard":
        print("The model was trained without motifs (flow.motif_share is 0): expect poor joints beside it.", flush=True)


def sampling_of(config: ProteinSamplingConfig) -> dict[str, Any]:
    """The sampler's own settings as plain values, whatever section they stand in."""
    return {one.name: getattr(config, one.name) for one in fields(ProteinSamplingConfig)}


def _portions(todo: Sequence[Task]) -> Iterator[Sequence[Task]]:
    """What is drawn together: a sample with a constraint alone, for each has its own."""
    size = PORTION if todo[0].constraint is None else 1
    for first in range(0, len(todo), size):
        yield todo[first : first + size]


def _keep(run: Run, task: Task, found: Sampled, facts: Mapping[str, Any]) -> None:
    """Write one sample: without loss, and as PDB to look at."""
    constraint = task.constraint
    if isinstance(constraint, SymmetricSampling):
        backbone = to_backbone(found.frames, constraint.chain.numpy(), constraint.residue_index.numpy())
        facts = {
            **facts,
            "symmetry": constraint.symmetry.name,
            "asymmetry": asymmetry(found.frames, constraint.symmetry),
        }
    elif constraint is not None:
        backbone, motif = constraint.finish(found.frames), constraint.motif
        moved = motif_rmsd(backbone, motif, superposed=False)
        origin = motif.origin.tolist()
        # To a hundred thousandth: what is left below is rounding in the superposition.
        apart = {"motif_rmsd": round(motif_rmsd(backbone, motif), 5), "motif_moved": round(moved, 5)}
        facts = {**facts, **apart, "origin": origin}
    else:
        backbone = to_backbone(found.frames)
    generated = Generated(backbone, _array(found.frames), _array(found.source), facts=facts)
    if found.trajectory is not None:
        generated = replace(generated, trajectory=_array(found.trajectory))
    name = f"sample-{task.index:04d}"
    write_generated(generated, run.samples / f"{name}.npz")
    write_backbone(backbone, run.samples / f"{name}.pdb", title=f"{run.name} {name}", seed=int(facts["seed"]))


def _array(frames: Tensor) -> np.ndarray:
    return frames.cpu().numpy()


def export(run: Run) -> None:
    """Write every sample in the formats asked for: structures one file each, trajectories beside them, ProteinMPNN's
    input for all together."""
    config: ProteinConfig = run.config
    wanted, samples = config.export, read_samples(run)
    structures = [suffix for suffix in wanted.formats if suffix != "jsonl"]
    for left in [*run.exports.glob("sample-*"), *run.exports.glob("*.jsonl")]:
        left.unlink()  # of an earlier attempt, perhaps in other formats
    progress = Progress("export", len(samples), "backbones")
    for done, (name, found) in enumerate(samples.items(), start=1):
        for suffix in structures:
            path = run.exports / f"{name}.{suffix}"
            seed = int(found.facts["seed"])
            written = write_backbone(
                found.backbone, path, residue_name=wanted.residue_name, title=f"{run.name} {name}", seed=seed
            )
            if any(written.shift):
                print(f"{path.name}: moved by {written.shift} Å to fit the columns of a PDB file", flush=True)
            if found.trajectory is not None:
                _write_trajectory(run, name, suffix, found)
        progress.update(done)
    if "jsonl" in wanted.formats:
        backbones = {name: found.backbone for name, found in samples.items()}
        write_mpnn_jsonl(backbones, run.exports / "backbones.jsonl", run.exports / "fixed_positions.jsonl")


def _write_trajectory(run: Run, name: str, suffix: str, found: Generated) -> None:
    """The states from noise on, and the sample as the last model."""
    assert found.trajectory is not None
    backbone, sampling = found.backbone, found.facts["sampling"]
    times = ProteinSamplingConfig(**sampling).times()
    if sampling["method"] == "two-call":
        times = [t for step in pairwise(times) for t in step] + times[-1:]
    origin = torch.tensor([0.0] * 4 + found.facts.get("origin", [0.0] * 3))
    states = [
        replace(
            to_backbone(frames + origin, backbone.chain, backbone.residue_index), residue_type=backbone.residue_type
        )
        for frames in torch.from_numpy(found.trajectory)
    ]
    write_trajectory(
        [*states, backbone],
        run.exports / f"{name}.trajectory.{suffix}",
        residue_name=run.config.export.residue_name,
        seed=int(found.facts["seed"]),
        times=[*times, 1.0],
    )
