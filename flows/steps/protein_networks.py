"""The trained networks of a protein run, and their samples as backbones."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.batch import UNKNOWN, Backbone
from data.errors import PenstockError
from data.model_folder import WEIGHTS
from data.protein import ProteinSamples
from data.protein.secondary_structure import assign
from data.splits import stable_hash
from flows.models import load_model
from flows.run import Run
from modules.geometry.frames import backbone_from_frames, place_oxygen
from modules.protein.network import ProteinNetwork

FEWEST_ALIKE = 60
"""Chains of the wanted lengths that a reference needs at least; with fewer of them, all chains are taken."""


def load_network(run: Run, stage: str) -> ProteinNetwork:
    """The trained network of a stage, on the GPU where there is one."""
    network = load_model(run.model(stage)).network.to("cuda" if torch.cuda.is_available() else "cpu")
    assert isinstance(network, ProteinNetwork)
    return network


def fingerprint(run: Run, stage: str) -> str:
    """SHA-256 (hex) of the weights."""
    return hashlib.sha256((run.model(stage) / WEIGHTS).read_bytes()).hexdigest()


def chosen_stage(run: Run, asked: str) -> str:
    """The stage that `sample.model` means.

    Raises:
        PenstockError: the rectified model is asked for, and not trained yet.
    """
    rectified = "train_reflow" in run.finished()
    if asked == "reflow" and not rectified:
        raise PenstockError(
            f"sample.model is reflow, but {run.name} has no rectified model yet. `penstock resume {run.name}` trains "
            "it; --sample.model flow draws from the base model."
        )
    if asked == "auto":
        return "reflow" if rectified else "flow"
    return asked


def to_backbone(
    frames: Float[Tensor, "residue 7"],
    chain: Int[np.ndarray, " residue"] | None = None,
    residue_index: Int[np.ndarray, " residue"] | None = None,
) -> Backbone:
    """N, CA, C and O of ideal geometry around frames in Å; one chain numbered from 1 unless said otherwise."""
    length = len(frames)
    chain = np.zeros(length, np.int64) if chain is None else chain
    residue_index = np.arange(1, length + 1) if residue_index is None else residue_index
    follows = np.zeros(length, bool)
    follows[:-1] = (chain[1:] == chain[:-1]) & (residue_index[1:] == residue_index[:-1] + 1)
    atoms = place_oxygen(backbone_from_frames(frames.double()), torch.from_numpy(follows))
    return Backbone(
        atoms=atoms.numpy().astype(np.float32),
        present=np.ones((length, 4), bool),
        chain=chain,
        residue_index=residue_index,
        residue_type=np.full(length, UNKNOWN),
    )


def plain_numbers(value: Any) -> Any:
    """The same with null in place of NaN and infinity, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def secondary_of(backbones: Sequence[Backbone]) -> list[np.ndarray]:
    """DSSP's three states of each."""
    return [assign(backbone) for backbone in backbones]


def reference_chains(samples: ProteinSamples, lengths: Sequence[int], most: int, seed: int) -> list[int]:
    """Positions of the prepared chains that generated ones of these lengths are held against: those between 0.8 and
    1.25 times as long, or all where those are few; at most `most`, chosen by the seed."""
    low, high = 0.8 * min(lengths), 1.25 * max(lengths)
    alike = [k for k, length in enumerate(samples.lengths) if low <= length <= high]
    chosen = alike if len(alike) >= FEWEST_ALIKE else list(range(len(samples)))
    if len(chosen) > most:
        chosen = sorted(sorted(chosen, key=lambda k: stable_hash("reference", seed, samples.ids[k]))[:most])
    return chosen


def chains_at(samples: ProteinSamples, positions: Sequence[int]) -> tuple[list[Backbone], list[np.ndarray]]:
    """Prepared chains and their secondary structure."""
    return [samples.backbone(k) for k in positions], [samples.secondary_structure(k) for k in positions]
