"""From a backbone to what the network sees: noise, a time, and the point on the path between them.

Everything is drawn from the seed of each sample, row by row and as long as the sample itself, so that a sample sees the
same noise whatever batch it travels in and however far it is padded.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modules.geometry import quaternion
from modules.geometry.igso3 import IGSO3
from modules.geometry.manifold import FRAMES
from modules.layers.random import generator, mix, rand_per_sample
from modules.transport.path import GeodesicPath

Frames = Float[Tensor, "batch residue 7"]
Mask = Bool[Tensor, "batch residue"]
Times = Float[Tensor, " batch"]

TRANSLATION_STREAM, ROTATION_STREAM, TIME_STREAM, MOTIF_STREAM, SELF_CONDITION_STREAM = 31, 32, 33, 34, 35
"""Separate draws of different purpose from the seed of one sample."""

NOISE_SCALE = 10.0
"""Standard deviation of the translations at t = 0, ångström per axis."""
IGSO3_SIGMA = 1.5
"""Width of the rotation noise around the data in the published training."""

RotationNoise = Literal["uniform", "igso3"]


@dataclass(frozen=True)
class Corrupted:
    """A batch on its way: the ends of the paths, the points on them, and which residues move."""

    source: Frames
    target: Frames
    noised: Frames
    t: Times
    resolved: Mask
    generated: Mask
    residue_index: Int[Tensor, "batch residue"]


def identity_where(frames: Frames, mask: Mask) -> Frames:
    """`frames` with the identity in place of those in `mask`."""
    return torch.where(mask[..., None], frames.new_tensor([1.0, 0, 0, 0, 0, 0, 0]), frames)


def centre(frames: Frames, mask: Mask) -> Frames:
    """`frames` moved so that the mean translation over `mask` is zero; as they are where `mask` is empty."""
    weight = mask.to(frames.dtype)[..., None]
    mean = (frames[..., 4:] * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1.0)
    return torch.cat([frames[..., :4], frames[..., 4:] - mean], dim=-1)


def draw_noise(seeds: Int[Tensor, " batch"], resolved: Mask) -> Frames:
    """Frames at t = 0: translations normal and centred, rotations uniform; the identity where not resolved.

    The noise of a sample follows from its seed and from the position of its last resolved residue.
    """
    batch, length = resolved.shape
    translations = torch.zeros(batch, length, 3)
    rotations = torch.zeros(batch, length, 4)
    ends = (resolved.cpu() * torch.arange(1, length + 1)).amax(dim=1).tolist()
    for row, (seed, end) in enumerate(zip(seeds.tolist(), ends, strict=True)):
        places = torch.randn(end, 3, generator=generator(mix(seed, TRANSLATION_STREAM)))
        # Centred at its own length: sums of other lengths round otherwise.
        translations[row, :end] = places - places[resolved[row, :end].cpu()].mean(dim=0)
        rotations[row, :end] = torch.randn(end, 4, generator=generator(mix(seed, ROTATION_STREAM)))
    noise = torch.cat([quaternion.uniform(rotations), NOISE_SCALE * translations], dim=-1).to(resolved.device)
    return identity_where(noise, ~resolved)


def around(noise: Frames, target: Frames, resolved: Mask, igso3: IGSO3) -> Frames:
    """`noise` with its rotations replaced by those of `target` turned by IGSO(3) noise.

    The uniform rotations of `noise` give axis and angle: their axes are uniform on the sphere, and the distribution
    function of their angles, (θ - sin θ) / π, is uniform on [0, 1].
    """
    vector = quaternion.log(noise[..., :4])
    angle = vector.norm(dim=-1)
    quantile = ((angle - angle.sin()) / torch.pi).clamp(0.0, 1.0)
    turns = quaternion.exp(igso3.sample(quantile, vector))
    rotations = quaternion.normalise(quaternion.multiply(target[..., :4], turns))
    return identity_where(torch.cat([rotations, noise[..., 4:]], dim=-1), ~resolved)


def draw_motifs(
    seeds: Int[Tensor, " batch"], resolved: Mask, *, share: float, least: float = 0.05, most: float = 0.5
) -> Mask:
    """Which residues are generated: all, or in `share` of the samples all but the segments of a motif.

    A motif has one to four segments, and `least` to `most` of the resolved residues in all.
    """
    generated = torch.ones_like(resolved)
    if not share:
        return generated
    chosen = (rand_per_sample(seeds, stream=MOTIF_STREAM) < share).tolist()
    for row, seed in enumerate(seeds.tolist()):
        places = resolved[row].nonzero()[:, 0]
        if not chosen[row] or len(places) < 2:
            continue
        draw = generator(mix(seed, MOTIF_STREAM, 1))
        u = torch.rand(2, generator=draw).tolist()
        count = min(len(places) - 1, max(1, round((least + (most - least) * u[0]) * len(places))))
        segments = min(count, len(places) - count, 1 + int(4 * u[1]))
        lengths = _composition(count, segments, draw)
        gaps = _composition(len(places) - count + 2, segments + 1, draw)
        gaps[0] -= 1  # the motif may begin at the first residue, and end at the last
        at = 0
        for gap, size in zip(gaps[:segments], lengths, strict=True):
            generated[row, places[at + gap : at + gap + size]] = False
            at += gap + size
    return generated


def _composition(total: int, parts: int, draw: torch.Generator) -> list[int]:
    """`total` as a sum of `parts` positive integers, each such sum as likely as any other."""
    cuts = (torch.randperm(total - 1, generator=draw)[: parts - 1] + 1).sort().values.tolist()
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]


def corrupt(
    source: Frames,
    target: Frames,
    t: Times,
    *,
    resolved: Mask,
    generated: Mask,
    residue_index: Int[Tensor, "batch residue"],
) -> Corrupted:
    """The points at times `t` on the paths from `source` to `target`; held residues stay at the target."""
    source = torch.where(generated[..., None], source, target)
    noised = GeodesicPath(FRAMES).sample(source, target, t).x_t
    noised = torch.where(generated[..., None], noised, target)
    return Corrupted(
        source=identity_where(source, ~resolved),
        target=identity_where(target, ~resolved),
        noised=identity_where(noised, ~resolved),
        t=t,
        resolved=resolved,
        generated=generated,
        residue_index=residue_index,
    )
