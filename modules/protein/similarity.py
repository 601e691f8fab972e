"""How alike backbones are in fold: TM-score (Zhang and Skolnick 2004), diversity of a set, nearness to training chains.

Above 0.5 two chains have the same fold as a rule; chance gives 0.2 to 0.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data.batch import Backbone
from data.errors import PenstockError

SAME_FOLD = 0.5
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Diversity:
    """TM-scores between the members of a set, each the mean of the two normalisations."""

    pairs: int
    """How many were compared."""
    mean: float
    """Lower is more diverse."""
    alike: float
    """Share of pairs above 0.5."""
    nearest: float
    """Mean over the compared members of the highest score to another one."""


@dataclass(frozen=True)
class Nearest:
    """The training chain that is most like a sample."""

    training: int
    """Its position."""
    score: float
    """TM-score normalised by the length of the sample."""
    aligned: int
    """How many training chains were aligned; the others were ruled out by `gapless_score`."""


def tm_scores(first: Backbone, second: Backbone) -> tuple[float, float]:
    """TM-scores of the best alignment on CA, normalised by the length of the first and of the second.

    Raises:
        PenstockError: tmtools is not installed, or a backbone has fewer than 3 resolved residues.
    """
    align = _tm_align()
    a, b = _ca(first), _ca(second)
    # The letters do not enter the score.
    found = align(a, b, "A" * len(a), "A" * len(b))
    return float(found.tm_norm_chain1), float(found.tm_norm_chain2)


def diversity(
    backbones: Sequence[Backbone], *, most_pairs: int = 300, seed: int = 0, report: Report | None = None
) -> Diversity | None:
    """TM-scores of pairs within a set; None of fewer than two. Beyond `most_pairs` a random part of the members is
    taken, the same for the same seed, and all of its pairs."""
    if len(backbones) < 2:
        return None
    most = int((1 + np.sqrt(1 + 8 * max(most_pairs, 1))) / 2)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(backbones))[:most])
    scores = np.full((len(chosen), len(chosen)), -np.inf)
    pairs = [(i, j) for i in range(len(chosen)) for j in range(i)]
    if report is not None:
        report(0, len(pairs))
    for done, (i, j) in enumerate(pairs, start=1):
        scores[i, j] = scores[j, i] = np.mean(tm_scores(backbones[chosen[i]], backbones[chosen[j]]))
        if report is not None:
            report(done, len(pairs))
    below = scores[np.tril_indices(len(chosen), -1)]
    return Diversity(
        pairs=len(pairs),
        mean=float(below.mean()),
        alike=float((below > SAME_FOLD).mean()),
        nearest=float(scores.max(axis=1).mean()),
    )


def nearest_training(
    backbones: Sequence[Backbone], training: Sequence[Backbone], *, aligned: int = 10, report: Report | None = None
) -> list[Nearest]:
    """For each backbone the training chain most like it, which shows what a model has memorised.

    `gapless_score` ranks all training chains; the first `aligned` of them are aligned in full, so that a copy, whole or
    of a piece, is always found, and a distant relative nearly always.
    """
    if not training:
        raise PenstockError("expected training chains to compare with, got none.")
    found = []
    if report is not None:
        report(0, len(backbones))
    for done, backbone in enumerate(backbones, start=1):
        ca = _ca(backbone)
        order = np.argsort([-gapless_score(ca, _ca(other)) for other in training], kind="stable")[:aligned]
        scores = [tm_scores(backbone, training[k])[0] for k in order]
        best = int(np.argmax(scores))
        found.append(Nearest(training=int(order[best]), score=scores[best], aligned=len(order)))
        if report is not None:
            report(done, len(backbones))
    return found


def gapless_score(query: Float[np.ndarray, "one 3"], other: Float[np.ndarray, "two 3"]) -> float:
    """Highest TM-score, normalised by the query, over all alignments without gaps that cover the shorter chain, each
    superposed with least squares (Kabsch 1976): a lower bound of the TM-score."""
    swapped = len(query) > len(other)
    short, long = (other, query) if swapped else (query, other)
    windows = np.lib.stride_tricks.sliding_window_view(long, len(short), axis=0).transpose(0, 2, 1)
    centred = windows - windows.mean(axis=1, keepdims=True)
    fixed = short - short.mean(axis=0)
    u, _, vt = np.linalg.svd(np.einsum("ai,wak->wik", fixed, centred))
    flip = np.ones((len(u), 3))
    flip[:, 2] = np.sign(np.linalg.det(u @ vt))
    moved = fixed @ ((u * flip[:, None]) @ vt)
    squared = np.square(moved - centred).sum(axis=-1)
    return float((1 / (1 + squared / tm_scale(len(query)) ** 2)).sum(axis=1).max() / len(query))


def tm_scale(length: int) -> float:
    """Distance d0 in Å at which a residue counts one half."""
    return max(1.24 * max(length - 15, 0) ** (1 / 3) - 1.8, 0.5)


def _ca(backbone: Backbone) -> Float[np.ndarray, "residue 3"]:
    found = backbone.atoms[backbone.resolved, 1].astype(np.float64)
    if len(found) < 3:
        raise PenstockError(f"expected at least 3 resolved residues to align, got {len(found)}; leave this chain out.")
    return found


def _tm_align() -> Callable:
    try:
        from tmtools import tm_align
    except ImportError:
        raise PenstockError(
            "TM-scores need the package tmtools, which is not installed: pip install 'penstock[protein]'."
        ) from None
    found: Callable = tm_align
    return found
