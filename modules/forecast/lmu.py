"""Legendre memory units: a forecaster that goes through a window at once, or step by step with the same weights.

A memory of a few numbers holds the last `theta` steps of a signal as the coefficients of Legendre polynomials
(Voelker et al. 2019). It is linear, so that all its states follow at once from a convolution (Chilkuri and Eliasmith
2021), as in LMUFormer (Liu et al. 2024).

Suffixes: B windows or rows, L steps, N targets, P steps ahead, O outputs, D width, S signals, M order of the memory.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.covariates import covariate_path
from modules.forecast.encoder import FeedForward
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.normalisation import WindowStatistics, window_statistics
from modules.layers.dropout import add_dropout


def legendre_system(order: int, theta: float) -> tuple[Float[Tensor, "order order"], Float[Tensor, " order"]]:
    """A and B of m ← A m + B u, whose m holds the last `theta` steps of u; float64.

    θ dm/dt = a m + b u with a_ij = (2i + 1)·(−1 for i < j, else (−1)^(i−j+1)) and b_i = (2i + 1)·(−1)^i (Voelker et al.
    2019, equations 1 and 2), u held over each step.
    """
    i = torch.arange(order, dtype=torch.float64)
    rate = (2 * i + 1) / theta
    sign = 1 - 2 * (i % 2)  # (-1)^i
    continuous = torch.zeros(order + 1, order + 1, dtype=torch.float64)
    below = -sign[:, None] * sign[None, :]
    continuous[:order, :order] = rate[:, None] * torch.where(i[:, None] < i[None, :], -1.0, below)
    continuous[:order, order] = rate * sign
    # The input as one more state that does not change: one exponential gives both matrices.
    discrete = torch.linalg.matrix_exp(continuous)
    return discrete[:order, :order], discrete[:order, order]


class LegendreMemory(nn.Module):
    """The memories of signals, without weights: all steps at once, or one after another."""

    A: Tensor
    B: Tensor
    impulse: Tensor

    def __init__(self, order: int, theta: float) -> None:
        super().__init__()
        if order < 1 or theta <= 0:
            raise ConfigError(f"a memory needs an order of at least 1 and theta above 0, got {order} and {theta}.")
        self.order, self.theta = order, theta
        A, B = legendre_system(order, theta)
        # Functions of order and theta: not in the state dict, so a length or theta is no part of what is trained.
        self.register_buffer("A", A.float(), persistent=False)
        self.register_buffer("B", B.float(), persistent=False)
        self.register_buffer("impulse", B.float()[:, None], persistent=False)

    def forward(self, u: Float[Tensor, "batch step signal"]) -> Float[Tensor, "batch step signal order"]:
        """The memory after every step, from an empty one: a convolution with the impulse response, by FFT."""
        length = u.shape[1]
        spectrum = torch.fft.rfft(self.response(length), n=2 * length)
        signal = torch.fft.rfft(u.transpose(1, 2), n=2 * length)
        memory = torch.fft.irfft(signal[:, :, None] * spectrum, n=2 * length)[..., :length]
        return memory.permute(0, 3, 1, 2)

    def last(self, u: Float[Tensor, "batch step signal"]) -> Float[Tensor, "batch signal order"]:
        """The memory after the last step."""
        return u.transpose(1, 2) @ self.response(u.shape[1]).flip(-1).T

    def step(
        self, u: Float[Tensor, "batch signal"], memory: Float[Tensor, "batch signal order"]
    ) -> Float[Tensor, "batch signal order"]:
        """The memory after one more step."""
        return memory @ self.A.T + u[..., None] * self.B

    def response(self, length: int) -> Float[Tensor, "order step"]:
        """Aᵗ B for the first `length` steps t, kept for the longest length so far."""
        if self.impulse.shape[1] < length:
            power, found = legendre_system(self.order, self.theta)
            found = found[:, None]
            while found.shape[1] < length:  # doubling: the second half is the first, Aⁿ times
                found = torch.cat([found, power @ found], dim=1)
                power = power @ power
            self.impulse = found.to(self.impulse)
        return self.impulse[:, :length]


class LMUCell(nn.Module):
    """What a step knows of itself and of all before it: relu(W [memory, x]), the memory being that of relu(V x).

    With one signal this is LMUFormer's non-spiking cell (Liu et al. 2024). With `rectified` False the remembered
    signals keep their sign.
    """

    def __init__(
        self, inputs: int, hidden: int, *, order: int, theta: float, signals: int = 1, rectified: bool = True
    ) -> None:
        super().__init__()
        self.signals, self.rectified = signals, rectified
        self.signal = nn.Linear(inputs, signals)
        self.memory = LegendreMemory(order, theta)
        self.hidden = nn.Linear(signals * order + inputs, hidden)

    def forward(
        self, x: Float[Tensor, "batch step inputs"]
    ) -> tuple[Float[Tensor, "batch step hidden"], Float[Tensor, "batch signal order"]]:
        """All steps at once, and the memory after the last."""
        memory = self.memory(self._signal(x))
        return self._hidden(memory, x), memory[:, -1]

    def last(
        self, x: Float[Tensor, "batch step inputs"]
    ) -> tuple[Float[Tensor, "batch hidden"], Float[Tensor, "batch signal order"]]:
        """As `forward`, of the last step alone, at a fraction of the cost."""
        memory = self.memory.last(self._signal(x))
        return self._hidden(memory, x[:, -1]), memory

    def step(
        self, x: Float[Tensor, "batch inputs"], memory: Float[Tensor, "batch signal order"] | None = None
    ) -> tuple[Float[Tensor, "batch hidden"], Float[Tensor, "batch signal order"]]:
        """One more step, and the memory after it; None is an empty memory."""
        if memory is None:
            memory = x.new_zeros(len(x), self.signals, self.memory.order)
        memory = self.memory.step(self._signal(x), memory)
        return self._hidden(memory, x), memory

    def _signal(self, x: Tensor) -> Tensor:
        signal: Tensor = self.signal(x)
        return signal.relu() if self.rectified else signal

    def _hidden(self, memory: Tensor, x: Tensor) -> Tensor:
        hidden: Tensor = self.hidden(torch.cat([memory.flatten(-2), x], dim=-1))
        return hidden.relu()


@dataclass(frozen=True, kw_only=True)
class LMUConfig:
    """Sizes; none are published for forecasting."""

    width: int = 64
    layers: int = 2
    order: int = 32
    """Numbers that remember one signal: about two for each oscillation within `theta`."""
    theta: float | None = None
    """Steps that are remembered; None: the look-back."""
    signals: int = 4
    """Signals that each layer remembers."""
    feed_forward: int = 128
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("width", "layers", "order", "signals", "feed_forward"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.theta is not None and self.theta <= 0:
            raise ConfigError(f"theta must be positive, or null for the look-back, got {self.theta}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is a share in [0, 1), got {self.dropout}.")

    def build(self, shape: WindowShape, head: Head) -> "LMUForecaster":
        return LMUForecaster(self, shape, head)


class LMULayer(nn.Module):
    """Memory unit and feed-forward, each behind a layer norm and with residual."""

    def __init__(self, config: LMUConfig, theta: float) -> None:
        super().__init__()
        self.cell_norm = nn.LayerNorm(config.width)
        self.cell = LMUCell(
            config.width, config.width, order=config.order, theta=theta, signals=config.signals, rectified=False
        )
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.feed_forward, dropout=config.dropout)
        self.dropout = config.dropout

    def forward(self, x: Float[Tensor, "row step width"]) -> tuple[Tensor, Tensor]:
        """All steps [row, step, width], and the memory after the last."""
        hidden, memory = self.cell(self.cell_norm(x))
        return self._added(x, hidden), memory

    def last(self, x: Float[Tensor, "row step width"]) -> tuple[Tensor, Tensor]:
        """The last step [row, width], and the memory after it."""
        hidden, memory = self.cell.last(self.cell_norm(x))
        return self._added(x[:, -1], hidden), memory

    def step(self, x: Float[Tensor, "row width"], memory: Tensor) -> tuple[Tensor, Tensor]:
        """One more step [row, width], and the memory after it."""
        hidden, memory = self.cell.step(self.cell_norm(x), memory)
        return self._added(x, hidden), memory

    def _added(self, x: Tensor, hidden: Tensor) -> Tensor:
        x = add_dropout(x, hidden, self.dropout, self.training)
        return add_dropout(x, self.feed_forward(self.feed_forward_norm(x)), self.dropout, self.training)


@dataclass(frozen=True)
class LMUState:
    """All that the forecaster keeps of a stream: its size does not depend on how long that is."""

    statistics: WindowStatistics
    """Of the window that the stream began with."""
    memories: tuple[Float[Tensor, "row signal order"], ...]
    """Of each layer; a row is one target of one window."""
    hidden: Float[Tensor, "row width"]
    """What the last layer knows after the newest step."""


class LMUForecaster(Forecaster):
    """Memory units over each target by itself; the last step's answer becomes the forecast.

    A step is the target's value, whether it is missing, and the calendar. Observed, known and static covariates come in
    through a linear path.
    """

    def __init__(self, config: LMUConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.takes_calendar = shape.calendar > 0
        theta = float(shape.look_back) if config.theta is None else config.theta
        self.embedding = nn.Linear(2 + shape.calendar, config.width)
        self.layers = nn.ModuleList(LMULayer(config, theta) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, shape.horizon * head.outputs)
        self.covariates = covariate_path(shape, head)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        state = self.start(window)
        raw_BPNO = self._raw(state)
        if self.covariates is not None:
            raw_BPNO = raw_BPNO + self.covariates(window, state.statistics)
        return self.head.finish(raw_BPNO, state.statistics)

    def start(self, window: WindowBatch) -> LMUState:
        """A stream that has seen this window; it may have any length."""
        statistics = window_statistics(window.past, window.past_mask)
        calendar = None if window.calendar is None else window.calendar[:, : window.past.shape[1]]
        x = self._embedded(window.past, window.past_mask, calendar, statistics)
        memories = []
        *below, top = self._stack
        for layer in below:
            x, memory = layer(x)
            memories.append(memory)
        hidden, memory = top.last(x)
        return LMUState(statistics, (*memories, memory), hidden)

    def step(
        self,
        state: LMUState,
        values: Float[Tensor, "batch target"],
        mask: Bool[Tensor, "batch target"] | None = None,
        calendar: Float[Tensor, "batch calendar"] | None = None,
    ) -> LMUState:
        """The stream after one more step, in the units of the window that it began with."""
        x = self._embedded(
            values[:, None],
            None if mask is None else mask[:, None],
            None if calendar is None else calendar[:, None],
            state.statistics,
        )[:, 0]
        memories = []
        for layer, before in zip(self._stack, state.memories, strict=True):
            x, memory = layer.step(x, before)
            memories.append(memory)
        return LMUState(state.statistics, tuple(memories), x)

    def forecast(self, state: LMUState) -> Float[Tensor, "batch horizon target output"]:
        """The forecast from the newest step on.

        Raises:
            ConfigError: the forecaster was built with covariates, which a stream does not carry; take windows.
        """
        if self.covariates is not None:
            raise ConfigError("a forecaster with covariates needs whole windows; call it on a window instead.")
        return self.head.finish(self._raw(state), state.statistics)

    @property
    def _stack(self) -> list[LMULayer]:
        return cast(list[LMULayer], list(self.layers))

    def _embedded(
        self, values_BLN: Tensor, mask_BLN: Tensor | None, calendar_BLC: Tensor | None, statistics: WindowStatistics
    ) -> Tensor:
        """The steps of each target [batch · target, step, width]."""
        normal_BLN = statistics.normalise(values_BLN, mask_BLN)
        missing_BLN = torch.zeros_like(normal_BLN) if mask_BLN is None else (~mask_BLN).to(normal_BLN)
        parts = [normal_BLN.transpose(1, 2)[..., None], missing_BLN.transpose(1, 2)[..., None]]
        if self.shape.calendar:
            if calendar_BLC is None or calendar_BLC.shape[-1] != self.shape.calendar:
                raise ConfigError(f"the forecaster was built for {self.shape.calendar} calendar columns; give them.")
            parts.append(calendar_BLC[:, None].expand(-1, values_BLN.shape[2], -1, -1))
        embedded: Tensor = self.embedding(torch.cat(parts, dim=-1).flatten(0, 1))
        return embedded

    def _raw(self, state: LMUState) -> Tensor:
        raw: Tensor = self.projection(self.norm(state.hidden))
        return raw.view(-1, self.shape.targets, self.shape.horizon, self.head.outputs).transpose(1, 2)
