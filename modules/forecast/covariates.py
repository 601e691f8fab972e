"""What covariates add to the forecast of a model that knows only the target's past: one linear map of them.

A linear map of the known future is worth more than most networks of the past alone (ridge on day-ahead prices), and it
starts from zero: a model without it and with it begin the same. Suffixes: B windows, P steps ahead, N targets, O
outputs.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.normalisation import WindowStatistics, window_statistics

COVARIATE_STEPS = 48
"""Of the look-back, seen of each covariate: two days of hours, as usual for day-ahead prices."""


def recent_mean(
    values: Float[Tensor, "batch step column"],
    mask: Bool[Tensor, "batch step column"] | None,
    steps: int,
) -> Float[Tensor, "batch 1 column"]:
    """Mean over what was measured in the last `steps`; over the whole window where that is nothing, else 0."""
    recent = window_statistics(values[:, -steps:], None if mask is None else mask[:, -steps:], scaled=False).centre
    if mask is None or steps >= values.shape[1]:
        return recent
    whole = window_statistics(values, mask, scaled=False).centre
    return torch.where(mask[:, -steps:].any(dim=1, keepdim=True), recent, whole)


def covariate_features(
    window: WindowBatch, shape: WindowShape, steps: int, *, known_history: bool = True, known_future: bool = True
) -> Float[Tensor, "batch feature"]:
    """The covariates of each window in one row: observed, known, static.

    Observed and known ones are less their own mean over the last season before the origin; 0 where not measured.
    `steps` of the look-back count.

    Raises:
        ConfigError: of a window without the covariates that `shape` names.
    """
    parts = []
    if shape.observed:
        _check("observed", window.observed, shape.observed)
        assert window.observed is not None
        centred = _centred(window.observed, window.observed_mask, shape)
        parts.append(centred[:, -steps:].flatten(1))
    if shape.known and (known_history or known_future):
        _check("known", window.known, shape.known)
        assert window.known is not None
        first = max(shape.look_back - steps, 0) if known_history else shape.look_back
        end = None if known_future else shape.look_back
        parts.append(_centred(window.known, window.known_mask, shape)[:, first:end].flatten(1))
    if shape.static:
        _check("static", window.static, shape.static)
        assert window.static is not None
        parts.append(window.static)
    return torch.cat(parts, dim=1) if parts else window.past.new_zeros(len(window), 0)


def feature_count(shape: WindowShape, steps: int, *, known_history: bool = True, known_future: bool = True) -> int:
    """Length of a row of `covariate_features`."""
    seen = min(steps, shape.look_back)
    known_steps = seen * known_history + shape.horizon * known_future
    return shape.observed * seen + shape.known * known_steps + shape.static


class CovariatePath(nn.Module):
    """A linear map from covariates to what they add to a forecast, zero until trained.

    It adds in the units of the window's values, whatever the window's own scale: a degree more is a degree more in
    calm and in wild weeks.
    """

    def __init__(self, shape: WindowShape, outputs: int, steps: int = COVARIATE_STEPS) -> None:
        super().__init__()
        self.shape = shape
        self.outputs = outputs
        self.steps = min(steps, shape.look_back)
        self.linear = nn.Linear(feature_count(shape, self.steps), shape.horizon * shape.targets * outputs, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(
        self, window: WindowBatch, statistics: WindowStatistics | None = None
    ) -> Float[Tensor, "batch horizon target output"]:
        """To be added to the raw output of a network, in the units that `statistics` give it."""
        added = self.linear(covariate_features(window, self.shape, self.steps))
        added_BPNO = added.view(-1, self.shape.horizon, self.shape.targets, self.outputs)
        if statistics is None or statistics.scale is None:
            return added_BPNO
        return added_BPNO / statistics.scale[..., None]


def covariate_path(shape: WindowShape, head: Head) -> CovariatePath | None:
    """The path for these windows; None where they have no covariates."""
    if not (shape.observed or shape.known or shape.static):
        return None
    return CovariatePath(shape, head.outputs)


def _centred(values: Tensor, mask: Tensor | None, shape: WindowShape) -> Tensor:
    past = values[:, : shape.look_back]
    centre = recent_mean(past, None if mask is None else mask[:, : shape.look_back], shape.season)
    return WindowStatistics(centre).normalise(values, mask)


def _check(name: str, values: Tensor | None, columns: int) -> None:
    got = 0 if values is None else values.shape[-1]
    if got != columns:
        raise ConfigError(
            f"the forecaster was built for {columns} {name} columns, the windows have {got}; "
            f"prepare the data with the columns that it was trained on."
        )
