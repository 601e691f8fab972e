"""Training of forecasters: the loss it logs, what imputation hides, and that it learns what there is to learn."""

from dataclasses import dataclass, field, replace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.batch import WindowBatch
from data.errors import ConfigError, PenstockError
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.training import ForecastTraining, hidden_steps
from modules.forecast.training_config import ForecastTrainingConfig
from modules.layers.optimization import OptimizerConfig

L, P, N = 8, 4, 2


class Linear(Forecaster):
    """One linear map of the past for all columns."""

    def __init__(self, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.map = nn.Linear(shape.look_back, shape.horizon * head.outputs)
        self.shown: list[WindowBatch] = []

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        self.shown.append(window)
        raw = self.map(window.past.transpose(1, 2)).unflatten(-1, (self.shape.horizon, self.head.outputs))
        return self.head.finish(raw.transpose(1, 2))


@dataclass(frozen=True, kw_only=True)
class LinearNetwork:
    shape: WindowShape = field(default_factory=lambda: WindowShape(look_back=L, horizon=P, targets=N))
    head: Head = field(default_factory=Head)

    def build(self) -> Linear:
        return Linear(self.shape, self.head)


def windows(count: int, *, masked: bool = True, horizon: int = P, seed: int = 0) -> WindowBatch:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(count, horizon, N, generator=draw) < torch.rand(count, 1, 1, generator=draw)
    return WindowBatch(
        ids=(),
        seeds=torch.arange(count) + 1000 * seed,
        past=torch.randn(count, L, N, generator=draw),
        future=torch.randn(count, horizon, N, generator=draw).masked_fill(~mask & masked, 0.0),
        future_mask=mask if masked else None,
    )


def cut(batch: WindowBatch, sizes: list[int]) -> list[WindowBatch]:
    parts, first = [], 0
    for size in sizes:
        fields = {name: value[first : first + size] for name, value in vars(batch).items() if isinstance(value, Tensor)}
        parts.append(replace(batch, **fields))
        first += size
    return parts


def loader(batches: list[WindowBatch]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


def trainer(steps: int = 1, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_steps=steps,
        num_sanity_val_steps=0,
        **options,
    )


def validated(module: ForecastTraining, batches: list[WindowBatch]) -> dict[str, float]:
    found = trainer().validate(module, loader(batches), verbose=False)
    return dict(found[0])


HEADS = [Head(), Head(loss="arctan_mae"), Head(loss="huber"), Head(kind="quantile"), Head(kind="student")]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: f"{head.kind}-{head.loss}")
@pytest.mark.parametrize("sizes", [[20], [7, 7, 6], [1] * 20, [13, 7]])
def test_validation_is_the_mean_of_the_whole_set_however_it_is_cut(head: Head, sizes: list[int]) -> None:
    """Not the mean of the batches' means: they hold different numbers of windows and of measured values."""
    module = ForecastTrainingConfig(network=LinearNetwork(head=head)).build()
    batch = windows(20)
    found = validated(module, cut(batch, sizes))
    with torch.no_grad():
        forecast = module.model(batch)
    assert batch.future is not None
    assert batch.future_mask is not None
    point = module.model.head.point(forecast)[batch.future_mask].double()
    truth = batch.future[batch.future_mask].double()
    loss = module.model.head.error(forecast, batch.future, batch.future_mask)
    assert found["val/loss"] == pytest.approx(float(loss), rel=1e-5)
    assert found["val/mse"] == pytest.approx(float((point - truth).square().mean()), rel=1e-5)
    assert found["val/mae"] == pytest.approx(float((point - truth).abs().mean()), rel=1e-5)


def test_windows_of_which_nothing_was_measured_count_for_nothing() -> None:
    """What the data module deals to a rank that has no window left."""
    module = ForecastTrainingConfig(network=LinearNetwork()).build()
    batch = windows(6)
    assert batch.future is not None
    empty = replace(windows(2, seed=5), future_mask=torch.zeros(2, P, N, dtype=torch.bool))
    assert validated(module, [batch, empty]) == validated(module, [batch])
    assert validated(module, [empty])["val/loss"] == 0


def test_learns_a_linear_map_as_least_squares_does() -> None:
    truth = torch.randn(L, P, generator=torch.Generator().manual_seed(1))
    batch = windows(200, masked=False)
    batch = replace(batch, future=torch.einsum("bln,lp->bpn", batch.past, truth))
    optimizer = OptimizerConfig(kind="adam", learning_rate=0.05)
    module = ForecastTrainingConfig(network=LinearNetwork(), optimizer=optimizer).build()
    trainer(300).fit(module, loader([batch] * 10))
    assert isinstance(module.model, Linear)
    torch.testing.assert_close(module.model.map.weight.detach(), truth.T, atol=2e-3, rtol=0)
    assert float(module.trainer.callback_metrics["train/loss"]) < 1e-4


def test_a_window_without_a_future_is_refused() -> None:
    module = ForecastTrainingConfig(network=LinearNetwork()).build()
    with pytest.raises(PenstockError, match="without its future"):
        module.task(replace(windows(2), future=None, future_mask=None))


class TestImputation:
    network = LinearNetwork(shape=WindowShape(look_back=L, horizon=L, targets=N))

    def module(self, **options: Any) -> ForecastTraining:
        return ForecastTrainingConfig(network=self.network, task="impute", **options).build()

    def test_the_model_sees_nothing_of_what_it_is_to_give_back(self) -> None:
        module = self.module(hidden=0.5, block=2)
        batch = windows(30, horizon=L)
        measured = torch.rand(30, L, N) < 0.8
        batch = replace(batch, past=batch.past.masked_fill(~measured, 0.0), past_mask=measured)
        window, truth, counted = module.task(batch)
        assert counted is not None
        assert window.past_mask is not None
        assert window.future is None
        assert window.future_mask is None
        assert not (window.past_mask & counted).any()
        assert torch.equal(window.past_mask | counted, measured)
        assert (window.past[counted] == 0).all()
        assert torch.equal(window.past[window.past_mask], batch.past[window.past_mask])
        assert torch.equal(truth, batch.past)
        spoiled = replace(batch, past=torch.where(counted, torch.nan, batch.past))
        assert torch.equal(module.task(spoiled)[0].past, window.past)

    def test_only_what_was_hidden_and_measured_makes_the_loss(self) -> None:
        module = self.module(hidden=0.4, block=1)
        batch = windows(30, horizon=L)
        window, truth, counted = module.task(batch)
        assert counted is not None
        with torch.no_grad():
            expected = (module.model(window)[..., 0] - truth)[counted].square().mean()
        assert validated(module, cut(batch, [11, 19]))["val/mse"] == pytest.approx(float(expected), rel=1e-5)

    def test_blocks_hide_the_asked_share_and_begin_anywhere(self) -> None:
        """Of 2000 windows × 2 columns; a step is hidden or not with its block: at least 5 blocks a window."""
        hidden = hidden_steps(torch.arange(2000), (40, 2), 0.3, 8).numpy()
        share = hidden.mean(axis=(0, 2))
        assert abs(share - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 4000)
        changes = (hidden[:, 1:] != hidden[:, :-1]).mean(axis=(0, 2))
        expected = 2 * 0.3 * 0.7 / 8  # at every border of two blocks, of which each step is one in eight times
        assert abs(changes - expected).max() < 5 * np.sqrt(expected / 4000)
        runs = np.diff(np.flatnonzero(np.diff(hidden[0, :, 0].astype(int))))
        assert (runs % 8 == 0).all()

    def test_what_is_hidden_belongs_to_the_window_and_not_to_its_batch(self) -> None:
        whole = hidden_steps(torch.tensor([5, 6, 7]), (30, 3), 0.5, 4)
        assert torch.equal(hidden_steps(torch.tensor([7]), (30, 3), 0.5, 4)[0], whole[2])
        assert not torch.equal(whole[0], whole[1])

    def test_horizon_must_be_the_look_back(self) -> None:
        with pytest.raises(ConfigError, match="the horizon must be the look-back, 8 steps, got 4"):
            ForecastTrainingConfig(network=LinearNetwork(), task="impute").build()


@pytest.mark.parametrize("values", [{"task": "guess"}, {"hidden": 0.0}, {"hidden": 1.0}, {"block": 0}])
def test_senseless_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, TypeError)):
        ForecastTrainingConfig(network=LinearNetwork(), **values)
