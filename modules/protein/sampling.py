"""New backbones from a trained network, each a function of (seed, sample index) alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.errors import ConfigError, PenstockError
from modules.geometry.manifold import FRAMES
from modules.layers.random import mix
from modules.protein.corruption import draw_noise
from modules.protein.network import ProteinNetwork
from modules.transport.denoise import (
    METHODS,
    ExponentialSchedule,
    LinearSchedule,
    Method,
    ProductSchedule,
    Schedule,
    denoise,
)
from modules.transport.time_sampling import shift_towards_noise

Frames = Float[Tensor, "residue 7"]
BatchFrames = Float[Tensor, "sample residue 7"]

NOISE_STREAM = 41
"""Separates the noise of a new sample from other draws with the same seed."""
EDGES_PER_CALL = {"cpu": 2**18, "other": 2**26}
"""rows · residues² · edge width of one network call. On the CPU little is gained beyond it; the figure for accelerators
is a guess."""
PUSHES, STRETCH = 12, 4
"""Rounds of `repulsion`, and residues along the chain that move with one that is pushed."""
CHAIN_GAP = 32
"""Places left free between two chains: the network reads the offset along the chain from the places."""


@dataclass(frozen=True, kw_only=True)
class ProteinSamplingConfig:
    """How new backbones are drawn."""

    steps: int = 50
    """Calls of the network, at least 2."""
    method: Method = "first"
    """`first`: one call per step, order 1. `two-call` and `multistep` are of order 2; the former takes two of the calls
    per step, the latter learns from the call before."""
    rotation_schedule: Literal["exponential", "linear"] = "exponential"
    """Exponential: rotations settle early, which matters more than anything else for what was trained on a linear one
    (Yue et al. 2025, table of ablations)."""
    rotation_rate: float = 10.0
    """Of the exponential schedule: exp(-rate t) of the way remains at time t."""
    start: float = 0.01
    """Time of the first call."""
    end: float = 1.0
    """Time of the last call, whose prediction is the sample."""
    shift: float = 1.0
    """Spends more calls near the noise where greater than 1."""
    repulsion: float = 0.0
    """Ångström: in every prediction but the last, stretches of the chain with CA closer than this are pushed apart. 5
    keeps a chain from running through itself, which a short training does not teach; 0 leaves predictions alone."""
    self_condition: bool = True
    """Show the network its last prediction; set it as in training."""
    reference: bool = False
    """Sample as the published code does: Euler steps, which overshoot where rate · step > 1, a last call at the time of
    the one before, residues counted from 0. For comparisons only."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ConfigError(f"sampling needs at least 2 steps, got {self.steps}.")
        if self.method not in METHODS:
            raise ConfigError(f"unknown sampling method '{self.method}'; available: {', '.join(METHODS)}.")
        if self.rotation_schedule not in ("exponential", "linear"):
            raise ConfigError(
                f"rotation_schedule must be 'exponential' or 'linear', got '{self.rotation_schedule}'; choose one."
            )
        if not 0 <= self.start < self.end <= 1:
            raise ConfigError(f"expected 0 <= start < end <= 1, got start={self.start} and end={self.end}.")
        if not 0 <= self.repulsion <= 20:
            raise ConfigError(
                f"repulsion is a distance of 0 to 20 Å, got {self.repulsion}; 5 is usual, 0 switches it off."
            )
        if not self.shift > 0:
            raise ConfigError(f"shift must be positive, got {self.shift}; 1 spaces the times evenly.")
        if self.reference and (self.method != "first" or self.shift != 1.0 or self.repulsion):
            raise ConfigError(
                "the published sampler knows no method, no shift and no repulsion; leave them at their defaults."
            )
        ExponentialSchedule(self.rotation_rate)

    def times(self) -> list[float]:
        """The times of the calls; with `two-call`, those at which steps begin and end."""
        count = (self.steps - 1) // 2 + 1 if self.method == "two-call" else self.steps
        if count < 2:
            return [self.start, self.end]
        even = torch.linspace(0.0, 1.0, count, dtype=torch.float64)
        between = self.start + (self.end - self.start) * shift_towards_noise(even, self.shift)
        return [self.start, *between[1:-1].tolist(), self.end]

    def schedule(self) -> Schedule:
        """How rotations and translations follow the prediction."""
        linear, rotation = (
            (EulerStep(None), EulerStep(self.rotation_rate))
            if self.reference
            else (
                LinearSchedule(),
                ExponentialSchedule(self.rotation_rate),
            )
        )
        return ProductSchedule(((linear if self.rotation_schedule == "linear" else rotation, 3), (linear, 3)))


@dataclass(frozen=True)
class EulerStep:
    """The published steps: rate · dt of the way with a rate, dt / (1 - t) without. May exceed 1."""

    rate: float | None

    def fraction(self, t: float, t_next: float) -> Tensor:
        rate = 1.0 / (1.0 - t) if self.rate is None else self.rate
        return torch.tensor(rate * (t_next - t), dtype=torch.float64)


@runtime_checkable
class Constraint(Protocol):
    """What a sample has to keep to: a motif, a symmetry. Frames come with leading axes."""

    @property
    def generated(self) -> Bool[Tensor, " residue"]:
        """False where the residue is given, and the network told so."""
        ...

    def start(self, noise: Float[Tensor, "*batch residue 7"]) -> Float[Tensor, "*batch residue 7"]:
        """The noise that sampling starts from."""
        ...

    def project(self, frames: Float[Tensor, "*batch residue 7"], t: float) -> Float[Tensor, "*batch residue 7"]:
        """The state at time `t`, on the constraint."""
        ...

    def guide(self, prediction: Float[Tensor, "*batch residue 7"], t: float) -> Float[Tensor, "*batch residue 7"]:
        """What the network predicts at time `t`, on the constraint or drawn towards it."""
        ...


@runtime_checkable
class Chained(Protocol):
    """A constraint that knows of several chains."""

    @property
    def chain(self) -> Int[Tensor, " residue"]: ...

    @property
    def residue_index(self) -> Int[Tensor, " residue"]: ...


@dataclass(frozen=True)
class Sampled:
    """One sample, on the CPU."""

    index: int
    frames: Frames
    source: Frames
    """The noise that it was made from."""
    trajectory: Float[Tensor, "call residue 7"] | None = None
    """The state at each call of the network, from the noise on; where asked for."""
    predictions: Float[Tensor, "call residue 7"] | None = None
    """What the network answered to each; the last is the sample."""


@dataclass(frozen=True)
class _Call:
    """What the network is told beside frames and time, for `rows` samples of one length."""

    rows: int
    places: Int[Tensor, " residue"]
    """Where the residues stand in the array that the network sees."""
    width: int
    """Places in all."""
    generated: Bool[Tensor, " residue"]
    residue_index: Int[Tensor, " residue"]


def noise_frames(seed: int, index: int, length: int) -> Frames:
    """The noise of sample `index`: uniform rotations, translations normal with 10 Å per axis and centred."""
    seeds = torch.tensor([mix(seed, index, NOISE_STREAM)])
    return draw_noise(seeds, torch.ones(1, length, dtype=torch.bool))[0]


def samples_per_call(edge_width: int, length: int, device: torch.device) -> int:
    """How many samples share one call of the network: a power of two up to 16 that depends on sizes alone."""
    budget = EDGES_PER_CALL["cpu" if device.type == "cpu" else "other"]
    return 2 ** min(4, max(0, (budget // (edge_width * length**2)).bit_length() - 1))


@torch.no_grad()
def sample_backbones(
    model: ProteinNetwork,
    config: ProteinSamplingConfig,
    *,
    seed: int,
    indices: Sequence[int],
    lengths: Sequence[int],
    noise: Sequence[Frames] | None = None,
    constraint: Constraint | None = None,
    progress: Callable[[int], None] | None = None,
    trajectory: bool = False,
) -> list[Sampled]:
    """Backbones of samples `indices`, in that order.

    Sample k has the same bits whatever other samples are asked for with it. Matrix products round differently for
    different batch shapes, so the shape is never varied: samples of one length share calls of P rows, where P follows
    from the sizes of network and sample (`samples_per_call`), and sample k sits in row k mod P; rows nobody asked for
    hold nothing. Runs of P consecutive samples of one length waste nothing.

    Args:
        seed: of the run; the noise of sample k is drawn from (seed, k).
        indices: which samples, each once, not negative.
        lengths: residues of each.
        noise: frames to start from instead of drawn ones, one [length, 7] per sample, used as they are.
        constraint: what all these samples keep to.
        progress: called with the number of samples finished so far.
        trajectory: keep the states and predictions of every call.

    Raises:
        PenstockError: indices, lengths, noise and constraint do not fit each other.
    """
    _check(indices, lengths, noise, constraint)
    device = next(model.parameters()).device
    found: dict[int, Sampled] = {}
    groups: dict[tuple[int, int], list[int]] = {}
    for place, (k, length) in enumerate(zip(indices, lengths, strict=True)):
        rows = samples_per_call(model.config.edge_width, length, device)
        groups.setdefault((length, k // rows), []).append(place)
    for (length, _), places in groups.items():
        call = _call(length, samples_per_call(model.config.edge_width, length, device), constraint, device)
        slots = [indices[place] % call.rows for place in places]
        start = _empty(call.rows, length)
        for slot, place in zip(slots, places, strict=True):
            given = noise_frames(seed, indices[place], length) if noise is None else noise[place].detach().float().cpu()
            start[slot] = given if constraint is None else constraint.start(given)
        if config.reference:
            call = replace(call, residue_index=call.residue_index - 1)
        calls = _run(model, config, start.to(device), call, constraint, keep=trajectory)
        for slot, place in zip(slots, places, strict=True):
            states = torch.stack([state[slot] for state, _ in calls]).cpu() if trajectory else None
            answers = torch.stack([answer[slot] for _, answer in calls]).cpu() if trajectory else None
            found[place] = Sampled(indices[place], calls[-1][1][slot].cpu(), start[slot].clone(), states, answers)
        if progress is not None:
            progress(len(found))
    return [found[place] for place in range(len(indices))]


def _run(
    model: ProteinNetwork,
    config: ProteinSamplingConfig,
    start: BatchFrames,
    call: _Call,
    constraint: Constraint | None,
    *,
    keep: bool,
) -> list[tuple[BatchFrames, BatchFrames]]:
    """State and prediction of every call of the network, or of the last one alone."""
    times = config.times()
    seen: Tensor | None = None

    def predict(x: Tensor, t: float) -> Tensor:
        nonlocal seen
        # The published sampler asks for its last prediction at the time of the one before.
        told = times[-2] if config.reference and t == times[-1] else t
        answer = _ask(model, x, told, call, seen)
        if config.repulsion and t < times[-1]:
            answer = pushed_apart(answer, call.places, call.generated, least=config.repulsion)
        answer = answer if constraint is None else constraint.guide(answer, t)
        if config.self_condition:
            seen = answer[..., 4:]
        return answer

    project = None if constraint is None else constraint.project
    calls: list[tuple[Tensor, Tensor]] = []
    steps = denoise(predict, FRAMES, start, times, config.schedule(), method=config.method, project=project)
    for step in steps:
        if not keep:
            calls.clear()
        calls.append((step.state, step.prediction))
    return calls


def _ask(model: ProteinNetwork, x: BatchFrames, t: float, call: _Call, seen: Tensor | None) -> BatchFrames:
    """The network's prediction for all rows."""

    def spread(values: Tensor, empty: Tensor) -> Tensor:
        if call.width == len(call.places):
            return values
        wide = empty.expand(call.rows, call.width, *values.shape[2:]).clone()
        wide[:, call.places] = values
        return wide

    def of_rows(values: Tensor) -> Tensor:
        return values.expand(call.rows, -1)

    identity = x.new_tensor([1.0, 0, 0, 0, 0, 0, 0])
    present = torch.ones_like(call.generated)
    time = x.new_full((call.rows,), t)
    predicted: Tensor = model(
        spread(x, identity),
        time,
        time,
        resolved=spread(of_rows(present), present.new_zeros(())),
        generated=spread(of_rows(call.generated), present.new_ones(())),
        residue_index=spread(of_rows(call.residue_index), call.residue_index.new_zeros(())),
        self_condition=None if seen is None else spread(seen, identity[4:]),
    )
    return predicted if call.width == len(call.places) else predicted[:, call.places]


def pushed_apart(
    frames: BatchFrames, places: Int[Tensor, " residue"], generated: Bool[Tensor, " residue"], *, least: float
) -> BatchFrames:
    """`frames` with their translations moved so that CA three or more places apart tend to be `least` Å apart.

    Every residue is moved by the mean over its neighbours along the chain of what each would need, so that stretches
    move as wholes and bonds hardly change; given residues stay. Turns and moves with its input.
    """
    at = frames[..., 4:]
    apart = (places[:, None] - places).abs()
    far = apart >= 3
    carried = (STRETCH - apart).clamp(min=0).to(at.dtype) * generated
    carried = carried / STRETCH**2
    for _ in range(PUSHES):
        between = at[:, :, None] - at[:, None]
        distance = between.norm(dim=-1).clamp(min=0.1)
        missing = (least - distance).clamp(min=0.0) * far
        pushes = ((missing / distance)[..., None] * between).sum(2) / (missing > 0).sum(2).clamp(min=1)[..., None]
        at = at + carried @ pushes * generated[:, None]
    return torch.cat([frames[..., :4], at], dim=-1)


def _call(length: int, rows: int, constraint: Constraint | None, device: torch.device) -> _Call:
    generated = torch.ones(length, dtype=torch.bool) if constraint is None else constraint.generated
    index, places = torch.arange(1, length + 1), torch.arange(length)
    if isinstance(constraint, Chained):
        index, places = constraint.residue_index, places + CHAIN_GAP * constraint.chain
    return _Call(rows, places.to(device), int(places[-1]) + 1, generated.to(device), index.to(device))


def _empty(rows: int, length: int) -> BatchFrames:
    return torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).repeat(rows, length, 1)


def _check(
    indices: Sequence[int],
    lengths: Sequence[int],
    noise: Sequence[Frames] | None,
    constraint: Constraint | None,
) -> None:
    if len(set(indices)) != len(indices) or any(k < 0 for k in indices):
        raise PenstockError(f"sample indices must be distinct and not negative, got {list(indices)}.")
    if len(lengths) != len(indices) or any(length < 1 for length in lengths):
        raise PenstockError(f"lengths: expected one of at least 1 per sample, {len(indices)}, got {list(lengths)}.")
    for name, sizes in (
        ("noise", None if noise is None else [tuple(frames.shape) for frames in noise]),
        ("constraint", None if constraint is None else [(len(constraint.generated), 7)] * len(lengths)),
    ):
        wanted = [(length, 7) for length in lengths]
        if sizes is not None and sizes != wanted:
            raise PenstockError(f"{name}: expected frames of {wanted}, got {sizes}.")
