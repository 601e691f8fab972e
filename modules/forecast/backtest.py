"""Backtests: the forecasts of many windows, and what came of them.

Positions are numbers of steps on a series' own grid. A forecast made at origin t sees the steps before t, and its first
target is step t itself; the target of step h (from 0) is t + h.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.batch import WindowBatch
from data.errors import ConfigError, PenstockError

Cut = Callable[[np.ndarray, np.ndarray], WindowBatch]
"""The windows of (items, origins), in this order."""


@dataclass(frozen=True)
class Backtest:
    """Point forecasts of many windows and what came of them; rows by item, then by origin."""

    items: Int[np.ndarray, " row"]
    """Which series."""
    origins: Int[np.ndarray, " row"]
    """First step that is forecast."""
    forecast: Float[np.ndarray, "row horizon target"]
    truth: Float[np.ndarray, "row horizon target"]
    """NaN where nothing was measured."""
    clock: Int[np.ndarray, " row"] | None = None
    """The origins on one time axis for all series; None where they are on one already."""

    def __post_init__(self) -> None:
        same = np.diff(self.items) == 0
        if (np.diff(self.items) < 0).any() or (np.diff(self.origins)[same] <= 0).any():
            raise PenstockError(
                "backtest: expected rows sorted by item, then by origin, each origin once per item; sort the windows "
                "before they are forecast."
            )

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def residuals(self) -> Float[np.ndarray, "row horizon target"]:
        """Truth less forecast."""
        return self.truth - self.forecast

    @cached_property
    def times(self) -> Int[np.ndarray, " row"]:
        """Origins on the axis that all series share."""
        return self.origins if self.clock is None else self.clock

    def groups(self) -> list[tuple[int, slice]]:
        """Each item with its rows."""
        starts = np.flatnonzero(np.diff(self.items, prepend=-1)) if len(self) else np.zeros(0, int)
        edges = pairwise([*starts.tolist(), len(self)])
        return [(int(self.items[start]), slice(start, stop)) for start, stop in edges]


def forecast_all(
    model: Callable[[WindowBatch], Tensor],
    cut: Cut,
    items: Int[np.ndarray, " row"],
    origins: Int[np.ndarray, " row"],
    batch_size: int = 256,
) -> Float[np.ndarray, "row horizon target output"]:
    """The model's answer to every window, in the order asked; the last batch is as long as what is left.

    A module is put into evaluation mode meanwhile. The same batch size gives the same bits; another one the same up to
    rounding, since matrix products of other sizes sum in another order.

    Raises:
        PenstockError: no windows, or the model or `cut` answers with another number of windows than asked.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
    if not len(items) or len(items) != len(origins):
        raise PenstockError(f"backtest: expected windows to forecast, got {len(items)} items, {len(origins)} origins.")
    module = model if isinstance(model, nn.Module) else None
    first = next(module.parameters(), None) if module is not None else None
    device = torch.device("cpu") if first is None else first.device
    training = module is not None and module.training
    forecast: np.ndarray | None = None
    if module is not None:
        module.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(items), batch_size):
                rows = slice(start, min(start + batch_size, len(items)))
                answer = model(cut(items[rows], origins[rows]).to(device)).cpu().numpy()
                if len(answer) != rows.stop - start:
                    raise PenstockError(
                        f"backtest: asked for {rows.stop - start} windows, got {len(answer)}; none may be left out."
                    )
                if forecast is None:
                    forecast = np.empty((len(items), *answer.shape[1:]), answer.dtype)
                forecast[rows] = answer
    finally:
        if module is not None:
            module.train(training)
    assert forecast is not None  # there is at least one window
    return forecast
