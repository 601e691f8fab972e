"""New latents from a velocity network, each a function of (seed, sample index) alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from data.errors import ConfigError, PenstockError
from modules.geometry.manifold import Euclidean
from modules.layers.random import mix, randn_per_sample
from modules.shape.transformer import ProjectedCondition, ShapeTransformer
from modules.transport.solver import VelocityField, integrate, shifted_times, solver_named
from modules.transport.velocity import Guidance

NOISE_STREAM = 21
"""Separates the noise of a new sample from other draws with the same seed."""

ELEMENTS_PER_CALL = {"cpu": 2**16, "other": 2**22}
"""rows · tokens · width of one network call. Measured on the CPU at widths 64 to 256: up to four times less time per
sample below it, nothing gained above. The figure for accelerators is a guess."""


@dataclass(frozen=True, kw_only=True)
class LatentSamplingConfig:
    """How new latents are drawn."""

    steps: int = 50
    solver: Literal["euler", "heun"] = "euler"
    """`heun` is of second order and calls the network twice per step."""
    shift: float = 1.0
    """Spends more steps near the noise where greater than 1."""
    guidance: float = 1.0
    """Classifier-free guidance: velocity = u + guidance · (c - u). 1 is the conditional velocity, 0 the unconditional.
    (A pipeline that writes 0 for "off" means 1.)"""

    def __post_init__(self) -> None:
        shifted_times(self.steps, self.shift)
        solver_named(self.solver)
        if self.guidance < 0:
            raise ConfigError(f"guidance must not be negative, got {self.guidance}; 1 means no guidance.")


def samples_per_call(width: int, tokens: int, device: torch.device) -> int:
    """How many samples share one call of the network: a power of two up to 16 that depends on sizes alone."""
    budget = ELEMENTS_PER_CALL["cpu" if device.type == "cpu" else "other"]
    return 2 ** min(4, max(0, (budget // (width * tokens)).bit_length() - 1))


def solve(
    model: ShapeTransformer,
    noise: Float[Tensor, "batch token channel"],
    config: LatentSamplingConfig,
    condition: ProjectedCondition | None = None,
    *,
    scales: tuple[float, float] = (1.0, 1.0),
) -> Float[Tensor, "batch token channel"]:
    """Normalised latents at t = 1 of the flow that starts at `noise`."""
    times = shifted_times(config.steps, config.shift)
    field = guided_velocity(model, condition, config.guidance, scales=scales)
    return integrate(field, Euclidean(), noise, times, solver_named(config.solver))


def guided_velocity(
    model: ShapeTransformer,
    condition: ProjectedCondition | None,
    guidance: float,
    *,
    scales: tuple[float, float] = (1.0, 1.0),
) -> VelocityField:
    """The velocity that sampling follows. The unconditional branch skips its cross-attentions, exactly."""

    def velocity(x: Tensor, t: float, given: ProjectedCondition | None) -> Tensor:
        # One time for all: its token is computed once, whatever the batch.
        time = torch.tensor([t], dtype=torch.float64, device=x.device)
        return model(x, time, given, scales=scales)

    def unconditional(x: Tensor, t: float) -> Tensor:
        return velocity(x, t, None)

    if condition is None:
        return unconditional
    return Guidance(lambda x, t: velocity(x, t, condition), unconditional, guidance)


@torch.no_grad()
def sample_latents(
    model: ShapeTransformer,
    config: LatentSamplingConfig,
    *,
    seed: int,
    indices: Sequence[int],
    tokens: int,
    condition: Float[Tensor, "sample condition width"] | None = None,
    second_condition: Float[Tensor, "sample second_condition second_width"] | None = None,
    labels: Sequence[int] | None = None,
    scales: tuple[float, float] = (1.0, 1.0),
    progress: Callable[[int], None] | None = None,
) -> Float[Tensor, "sample token channel"]:
    """Latents of samples `indices`, in that order, ready for the VAE's decoder, on the CPU.

    Sample k has the same bits whatever other samples are asked for with it, in whatever portions. Matrix products round
    differently for different batch shapes, so the shape is never varied: sample k always sits in row k mod P of a call
    with P rows, where P follows from the sizes of network and sample (`samples_per_call`); rows nobody asked for are
    zero. A row of a matrix product, a norm or an attention over its own tokens does not depend on other rows' values.

    Asking for whole multiples of P at a time wastes nothing.

    Args:
        seed: of the run; the noise of sample k is drawn from (seed, k).
        indices: which samples, each once, not negative.
        tokens: latents per sample.
        condition, second_condition: tokens of each sample in `indices`.
        labels: class of each sample in `indices`.
        scales: factors of the two cross-attentions.
        progress: called with the number of samples finished so far.
    """
    if len(set(indices)) != len(indices) or any(k < 0 for k in indices):
        raise PenstockError(f"sample indices must be distinct and not negative, got {list(indices)}.")
    for name, given in (("condition", condition), ("second condition", second_condition), ("labels", labels)):
        if given is not None and len(given) != len(indices):
            raise PenstockError(f"{name}: expected one entry per sample, {len(indices)}, got {len(given)}.")
    device = model.latent_mean.device
    rows = samples_per_call(model.config.width, tokens, device)
    class_indices = None if labels is None else torch.as_tensor(labels, device=device)
    conditions = model.condition_tokens(None if condition is None else condition.to(device), class_indices)
    drawn = torch.empty(len(indices), tokens, model.config.latent_channels)
    finished = 0
    for group in sorted({k // rows for k in indices}):
        places = [place for place, k in enumerate(indices) if k // rows == group]
        slots = torch.tensor([indices[place] % rows for place in places], device=device)
        seeds = torch.tensor([mix(seed, indices[place]) for place in places])
        noise = randn_per_sample(seeds, drawn.shape[1:], stream=NOISE_STREAM, device=device)
        projected = model.project_condition(
            _in_slots(conditions, places, slots, rows), _in_slots(second_condition, places, slots, rows)
        )
        start = torch.zeros(rows, *drawn.shape[1:], device=device).index_copy(0, slots, noise)
        has_condition = conditions is not None or second_condition is not None
        end = solve(model, start, config, projected if has_condition else None, scales=scales)
        drawn[places] = model.denormalise(end[slots]).cpu()
        finished += len(places)
        if progress is not None:
            progress(finished)
    return drawn


def _in_slots(values: Tensor | None, places: Sequence[int], slots: Tensor, rows: int) -> Tensor | None:
    """The values at `places`, in rows `slots` of `rows` rows; the other rows are zero."""
    if values is None:
        return None
    empty = torch.zeros(rows, *values.shape[1:], dtype=values.dtype, device=slots.device)
    return empty.index_copy(0, slots, values[list(places)].to(slots.device))
