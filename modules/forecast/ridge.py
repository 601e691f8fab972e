"""Ridge regression from past and covariates to the horizon, in closed form: the floor that much of the literature is
below.

Suffixes: B windows, L steps seen, P steps ahead, N targets, F covariate features, D inputs, M maps, R rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.covariates import COVARIATE_STEPS, covariate_features, feature_count, recent_mean
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.normal_equations import NormalEquations, sliding_products
from modules.forecast.normalisation import WindowStatistics, window_statistics

Offset = Literal["last", "mean", "season"]
Batches = Callable[[], Iterable[WindowBatch]]
"""Gives the same windows whenever it is called."""

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, kw_only=True)
class RidgeConfig:
    """y - offset = (x - offset) W + covariates V + b, with the least mean square error + penalty · |W, V|².

    With `cycle`, x and y are less the mean season of the training part, which the forecast gets back: CycleNet in
    closed form (Lin et al. 2024). That is more than W can see of a season: on ETTh1 from 96 steps a mean square error
    of .420 in place of .438, averaged over the published horizons.
    """

    offset: Offset = "last"
    """Of each window and target: its newest value, its mean, or the mean of its last season."""
    penalty: float = 1e-2
    """On the squared weights, per row of the regression."""
    individual: bool | None = None
    """Whether each target has its own map; null: where there are several and covariates, which differ in effect."""
    intercept: bool = False
    """Whether there is a bias b, which is not penalised. Where levels drift as they did in training it helps."""
    covariate_steps: int = COVARIATE_STEPS
    """Of the look-back, seen of each covariate."""
    cycle: bool = False
    """Whether the mean season of each target is taken away first; windows then need their position."""

    def __post_init__(self) -> None:
        if self.penalty <= 0:
            raise ConfigError(f"penalty must be positive, got {self.penalty}.")
        if self.covariate_steps < 1:
            raise ConfigError(f"covariate_steps must be at least 1, got {self.covariate_steps}.")

    def build(self, shape: WindowShape, head: Head) -> "Ridge":
        return Ridge(self, shape, head)


@dataclass(frozen=True)
class RidgeTrial:
    """One candidate, and its mean square error on the validation windows."""

    offset: Offset
    penalty: float
    error: float
    cycle: bool = False


@dataclass(frozen=True)
class RidgeChoice:
    """What was tried on the validation windows, and what was best."""

    best: RidgeTrial
    table: tuple[RidgeTrial, ...]


class Ridge(Forecaster):
    """Forecasts the offset until it is fitted. Its maps are buffers, so they are stored like weights.

    What is missing counts as the offset. Targets that were not measured leave their row out of the regression of their
    own step, windows without any measured past out of all.
    """

    weight: Tensor
    bias: Tensor
    cycle: Tensor | None

    def __init__(self, config: RidgeConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        if head.kind != "point":
            raise ConfigError(
                f"ridge regression forecasts points only, got head.kind {head.kind}; "
                f"put intervals around it by conformal prediction."
            )
        if config.offset == "season" and shape.season > shape.look_back:
            raise ConfigError(
                f"offset season needs a look-back of {shape.season} steps at least, got {shape.look_back}."
            )
        self.config = config
        features = feature_count(shape, config.covariate_steps)
        individual = config.individual
        if individual is None:
            individual = features > 0 and shape.targets > 1
        self.maps = shape.targets if individual else 1
        self.register_buffer("weight", torch.zeros(self.maps, shape.look_back + features, shape.horizon))
        self.register_buffer("bias", torch.zeros(self.maps, shape.horizon))
        self.register_buffer("cycle", torch.zeros(shape.season, shape.targets) if config.cycle else None)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target 1"]:
        window, cycle_BPN = self._without_cycle(window)
        statistics = self.statistics(window)
        raw_MRP = torch.baddbmm(self.bias[:, None], self._inputs(window, statistics), self.weight)
        forecast = self.head.finish(self._by_window(raw_MRP, len(window)).mT[..., None], statistics)
        return forecast if cycle_BPN is None else forecast + cycle_BPN[..., None]

    def statistics(self, window: WindowBatch) -> WindowStatistics:
        """The offset of each window and target."""
        past, mask = window.past, window.past_mask
        if self.config.offset == "season":
            return WindowStatistics(recent_mean(past, mask, self.shape.season))
        return window_statistics(past, mask, centre=self.config.offset, scaled=False)

    def equations(self, windows: Iterable[WindowBatch]) -> NormalEquations:
        """The normal equations of this offset and cycle, from windows with their futures."""
        equations = self._empty()
        for window, _ in map(self._without_cycle, windows):
            statistics = self.statistics(window)
            x_MRD = self._inputs(window, statistics)
            x_MRD = torch.cat([x_MRD, torch.ones_like(x_MRD[..., :1])], dim=-1)
            assert window.future is not None, "a regression needs windows with their futures"
            y_BPN = statistics.normalise(window.future, window.future_mask)
            measured_BPN = _measured(window)
            if measured_BPN is None:
                equations.add(x_MRD, self._by_row(y_BPN.mT))
            else:
                y_BPN = y_BPN.masked_fill(~measured_BPN, 0.0)
                equations.add(x_MRD, self._by_row(y_BPN.mT), self._by_row(measured_BPN.mT))
        return equations

    def series_equations(
        self, series: Iterable[Float[Tensor, "_ target"]], positions: Sequence[int] | None = None
    ) -> NormalEquations:
        """The normal equations of every window of some series without gaps and covariates, at a fraction of the cost.

        A series shorter than a window has none. `positions` are those of their first rows on the time grid, all 0 where
        not given; they matter for the cycle alone.
        """
        if self.weight.shape[1] != self.shape.look_back:
            raise ConfigError("sums over whole series know no covariates; take the equations of windows.")
        steps, equations = self.shape.look_back + self.shape.horizon, self._empty()
        for values, phase in self._phased(series, positions):
            if len(values) < steps:
                continue
            if self.cycle is not None:
                values = values - self.cycle[phase]
            joint = torch.stack([self._joint(sliding_products(column, steps)) for column in values.T])
            joint = joint if self.maps > 1 else joint.sum(dim=0, keepdim=True)
            equations.add_products(joint, (len(values) - steps + 1) * values.shape[1] // self.maps)
        return equations

    def solve(self, equations: NormalEquations) -> None:
        """Take the maps of least error."""
        weight, bias = equations.solve(self.config.penalty, intercept=self.config.intercept)
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def fit(self, windows: Iterable[WindowBatch]) -> None:
        """Fit to windows with their futures, in one pass; with a cycle in two.

        Raises:
            ConfigError: the second pass would find nothing, since `windows` can be read once only.
        """
        if self.cycle is not None:
            if iter(windows) is windows:
                raise ConfigError("a cycle takes two passes over the windows; hand them over as a list or the like.")
            self.fit_cycle(windows)
        self.solve(self.equations(windows))

    def fit_series(self, series: Sequence[Float[Tensor, "_ target"]], positions: Sequence[int] | None = None) -> None:
        """Fit to every window of series without gaps and covariates; `positions` as in `series_equations`."""
        self.fit_series_cycle(series, positions)
        self.solve(self.series_equations(series, positions))

    def fit_cycle(self, windows: Iterable[WindowBatch]) -> None:
        """Take the mean of each phase of the season over the futures of these windows."""
        sums = self._empty_cycle()
        for window in windows:
            assert window.future is not None, "a cycle is learned from windows with their futures"
            ahead = torch.arange(self.shape.look_back, self.shape.look_back + self.shape.horizon)
            phase = (_position(window)[:, None] + ahead) % self.shape.season
            measured = torch.ones_like(window.future) if window.future_mask is None else window.future_mask
            values = window.future.masked_fill(measured == 0, 0.0)
            for total, part in zip(sums, (values, measured), strict=True):
                total.index_add_(0, phase.flatten(), part.flatten(0, 1).double())
        self._take_cycle(*sums)

    def fit_series_cycle(
        self, series: Iterable[Float[Tensor, "_ target"]], positions: Sequence[int] | None = None
    ) -> None:
        """Take the mean of each phase of the season over these series."""
        sums = self._empty_cycle()
        for values, phase in self._phased(series, positions):
            for total, part in zip(sums, (values, torch.ones_like(values)), strict=True):
                total.index_add_(0, phase, part.double())
        self._take_cycle(*sums)

    def _phased(self, series: Iterable[Tensor], positions: Sequence[int] | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Each series with the phases of its rows."""
        for k, values in enumerate(series):
            first = 0 if positions is None else positions[k]
            yield values, (first + torch.arange(len(values))) % self.shape.season

    def _empty_cycle(self) -> tuple[Tensor, Tensor]:
        """Sums and counts."""
        sums = torch.zeros(2, self.shape.season, self.shape.targets, dtype=torch.float64)
        return sums[0], sums[1]

    def _take_cycle(self, sums: Tensor, counts: Tensor) -> None:
        if self.cycle is not None:
            self.cycle.copy_(sums / counts.clamp(min=1))

    def _without_cycle(self, window: WindowBatch) -> tuple[WindowBatch, Tensor | None]:
        """The window less the cycle, and the cycle over its horizon."""
        if self.cycle is None:
            return window, None
        steps = torch.arange(self.shape.look_back + self.shape.horizon, device=window.past.device)
        cycle = self.cycle[(_position(window)[:, None] + steps) % self.shape.season]
        seen, ahead = cycle[:, : self.shape.look_back], cycle[:, self.shape.look_back :]
        future = None if window.future is None else window.future - ahead
        return replace(window, past=window.past - seen, future=future), ahead

    def _empty(self) -> NormalEquations:
        return NormalEquations(self.maps, self.weight.shape[1] + 1, self.shape.horizon)

    def _inputs(self, window: WindowBatch, statistics: WindowStatistics) -> Float[Tensor, "map row input"]:
        x_BNL = statistics.normalise(window.past, window.past_mask).mT
        features_BF = covariate_features(window, self.shape, self.config.covariate_steps)
        if features_BF.shape[1]:
            features_BNF = features_BF[:, None].expand(-1, self.shape.targets, -1)
            x_BNL = torch.cat([x_BNL, features_BNF], dim=-1)
        return self._by_row(x_BNL)

    def _by_row(self, values_BNX: Tensor) -> Tensor:
        """[map, row, ...]: the windows of each target, or all of one map."""
        return values_BNX.transpose(0, 1) if self.maps > 1 else values_BNX.reshape(1, -1, values_BNX.shape[-1])

    def _by_window(self, rows_MRX: Tensor, windows: int) -> Tensor:
        return rows_MRX.transpose(0, 1) if self.maps > 1 else rows_MRX.view(windows, -1, rows_MRX.shape[-1])

    def _joint(self, products: Float[Tensor, "column column"]) -> Float[Tensor, "column column"]:
        """Products of [past, future, 1] turned into those of [past - offset, 1, future - offset]."""
        look_back, steps = self.shape.look_back, self.shape.look_back + self.shape.horizon
        weights = torch.zeros(steps + 1, dtype=torch.float64)
        reach = {"last": 1, "mean": look_back, "season": self.shape.season}[self.config.offset]
        weights[look_back - reach : look_back] = 1.0 / reach
        value = torch.cat([torch.ones(steps, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
        offset = products @ weights
        products = products - torch.outer(offset, value) - torch.outer(value, offset)
        products = products + (weights @ offset) * torch.outer(value, value)
        order = [*range(look_back), steps, *range(look_back, steps)]
        return products[order][:, order]


def choose_ridge(
    train: Batches,
    validation: Batches,
    shape: WindowShape,
    *,
    config: RidgeConfig | None = None,
    offsets: Sequence[Offset] = ("last", "mean"),
    penalties: Sequence[float] = PENALTIES,
    cycles: Sequence[bool] | None = None,
) -> tuple[Ridge, RidgeChoice]:
    """The ridge regression with the offset and penalty of least mean square error on the validation windows.

    With `cycles` (False, True) the cycle is chosen too; it is as in `config` else. Both sets of windows are read once
    for each offset, and the training windows once more for a cycle; all penalties follow from the same sums.
    """

    def equations(ridge: Ridge) -> tuple[NormalEquations, NormalEquations]:
        if ridge.cycle is not None:
            ridge.fit_cycle(train())
        return ridge.equations(train()), ridge.equations(validation())

    return _choose(equations, shape, config or RidgeConfig(), offsets, penalties, cycles)


def choose_ridge_on_series(
    train: Sequence[Float[Tensor, "_ target"]],
    validation: Sequence[Float[Tensor, "_ target"]],
    shape: WindowShape,
    *,
    config: RidgeConfig | None = None,
    offsets: Sequence[Offset] = ("last", "mean"),
    penalties: Sequence[float] = PENALTIES,
    cycles: Sequence[bool] | None = None,
    positions: tuple[Sequence[int], Sequence[int]] | None = None,
) -> tuple[Ridge, RidgeChoice]:
    """As `choose_ridge`, over every window of series without gaps and covariates, which are never cut out.

    Validation series begin with the look-back of their first window. `positions` are those of the first rows of both on
    the time grid; a cycle needs them.
    """
    train_at, validation_at = positions or (None, None)

    def equations(ridge: Ridge) -> tuple[NormalEquations, NormalEquations]:
        if ridge.cycle is not None:
            if positions is None:
                raise ConfigError("a cycle needs the positions of the series on the time grid.")
            ridge.fit_series_cycle(train, train_at)
        return ridge.series_equations(train, train_at), ridge.series_equations(validation, validation_at)

    return _choose(equations, shape, config or RidgeConfig(), offsets, penalties, cycles)


def _choose(
    equations: Callable[[Ridge], tuple[NormalEquations, NormalEquations]],
    shape: WindowShape,
    config: RidgeConfig,
    offsets: Sequence[Offset],
    penalties: Sequence[float],
    cycles: Sequence[bool] | None,
) -> tuple[Ridge, RidgeChoice]:
    if not offsets or not penalties:
        raise ConfigError("ridge regression needs at least one offset and one penalty to choose from.")
    table: list[RidgeTrial] = []
    best: tuple[Ridge, RidgeTrial] | None = None
    for cycle, offset in product((config.cycle,) if cycles is None else cycles, offsets):
        ridge = replace(config, offset=offset, cycle=cycle).build(shape, Head())
        learned, held_out = equations(ridge)
        for penalty in penalties:
            weight, bias = learned.solve(penalty, intercept=config.intercept)
            trial = RidgeTrial(offset, penalty, held_out.mean_square_error(weight, bias), cycle)
            table.append(trial)
            if best is None or trial.error < best[1].error:
                chosen = replace(ridge.config, penalty=penalty).build(shape, Head())
                chosen.load_state_dict(ridge.state_dict())
                chosen.solve(learned)
                best = chosen, trial
    assert best is not None
    return best[0], RidgeChoice(best[1], tuple(table))


def _measured(window: WindowBatch) -> Bool[Tensor, "batch horizon target"] | None:
    """Futures that were measured, of windows with any measured past; None where that is all."""
    if window.past_mask is None:
        return window.future_mask
    seen_B1N = window.past_mask.any(dim=1, keepdim=True)
    if window.future_mask is None:
        return None if seen_B1N.all() else seen_B1N.expand(-1, window.future.shape[1], -1)  # type: ignore[union-attr]
    return window.future_mask & seen_B1N


def _position(window: WindowBatch) -> Tensor:
    if window.position is None:
        raise ConfigError("a cycle needs the position of each window on the time grid, the windows have none.")
    return window.position
