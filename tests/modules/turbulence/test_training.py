"""Training for long rollouts: each option against a loop written by hand, and that it learns a flow that is known."""

from dataclasses import replace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.batch import FieldBatch, Share
from data.errors import ConfigError, PenstockError
from data.grid import Grid, fourier
from modules.layers.optimization import OptimizerConfig
from modules.layers.random import mix, randn_per_sample
from modules.turbulence.fno import FNOConfig
from modules.turbulence.ifactformer import IFactFormerConfig
from modules.turbulence.losses import LossConfig
from modules.turbulence.metrics import relative_l2, vrmse
from modules.turbulence.scales import measured
from modules.turbulence.stepper import StepperConfig
from modules.turbulence.training import NOISE_STREAM, PUSHFORWARD_STREAM, TurbulenceTraining
from modules.turbulence.training_config import TurbulenceTrainingConfig
from tests.modules.turbulence.field_makers import GRIDS, PointwiseConfig, first, windows

GRID = GRIDS["square"]
HISTORY = 2


def training(seed: int = 0, **options: Any) -> TurbulenceTraining:
    stepper = PointwiseConfig(components=1, axes=2, history=HISTORY, increment=True)
    found = TurbulenceTrainingConfig(stepper=stepper, **options).build(seed)
    found.model.set_statistics([0.3], [1.5], [0.1], [0.7])
    found.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return found


def gradients(module: TurbulenceTraining, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(module.model.parameters()))
    return [gradient.clone() for gradient in found]


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-8) for a, b in zip(found, expected, strict=True))


def batch_with_pushes(module: TurbulenceTraining, wanted: int, frames: int) -> FieldBatch:
    """A batch whose seed draws so many steps to be pushed."""
    for seed in range(100):
        batch = windows(GRID, size=3, history=HISTORY, frames=frames, seed=seed)
        if module.pushed(batch) == wanted:
            return batch
    raise AssertionError


def trainer(steps: int, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_steps=steps,
        **options,
    )


def loader(batches: list[FieldBatch]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


def test_the_default_is_one_step_as_published() -> None:
    module = training()
    batch = windows(GRID, size=3, history=HISTORY, frames=1)
    found = module.model(batch.past, GRID)
    expected = torch.stack(
        [(found[k] - batch.future[k, 0]).norm() / batch.future[k, 0].norm() for k in range(3)]
    ).mean()
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_a_longer_horizon_sends_gradients_through_all_steps() -> None:
    module = training(horizon=3)
    batch = windows(GRID, size=3, history=HISTORY, frames=3)
    found = gradients(module, module.training_step(batch, 0))

    frames = [batch.past[:, 0], batch.past[:, 1]]
    total = torch.zeros(())
    for step in range(3):
        frames.append(module.model(torch.stack(frames[-2:], dim=1), GRID))
        total = total + relative_l2(frames[-1], batch.future[:, step]).mean() / 3
    assert equal(found, gradients(module, total))

    cut = [batch.past[:, 0], batch.past[:, 1]]
    alone = torch.zeros(())
    for step in range(3):
        cut.append(module.model(torch.stack(cut[-2:], dim=1).detach(), GRID))
        alone = alone + relative_l2(cut[-1], batch.future[:, step]).mean() / 3
    assert not equal(found, gradients(module, alone))


@pytest.mark.parametrize("recompute", [False, True])
def test_the_operator_passes_gradients_through_several_steps(recompute: bool) -> None:
    """Against central differences along a random direction of all weights, in float64."""
    network = IFactFormerConfig(dim=12, heads=2, dim_head=4, iterations=2, recompute=recompute)
    stepper = StepperConfig(components=1, axes=2, history=HISTORY, increment=True, network=network)
    module = TurbulenceTrainingConfig(stepper=stepper, horizon=3).build().double()
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    batch = windows(GRID, size=2, history=HISTORY, frames=3).double()
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    draw = torch.Generator().manual_seed(1)
    direction = [torch.randn(weight.shape, generator=draw, dtype=torch.float64) for weight in weights]
    slopes = torch.autograd.grad(module.training_step(batch, 0), weights)
    found = sum((slope * d).sum() for slope, d in zip(slopes, direction, strict=True))

    def moved(size: float) -> Tensor:
        with torch.no_grad():
            for weight, d in zip(weights, direction, strict=True):
                weight += size * d
            loss = module.training_step(batch, 0)
            for weight, d in zip(weights, direction, strict=True):
                weight -= size * d
        return loss

    expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def test_pushed_steps_get_no_gradients() -> None:
    module = training(pushforward=2)
    batch = batch_with_pushes(module, wanted=2, frames=3)
    found = gradients(module, module.training_step(batch, 0))

    past = batch.past
    for _ in range(2):
        past = torch.cat([past[:, 1:], module.model(past, GRID)[:, None]], dim=1)
    last = relative_l2(module.model(past.detach(), GRID), batch.future[:, 2]).mean()
    assert equal(found, gradients(module, last))
    through = relative_l2(module.model(past, GRID), batch.future[:, 2]).mean()
    assert not equal(found, gradients(module, through))


def test_how_many_steps_are_pushed_is_one_draw_for_the_whole_batch() -> None:
    module = training(pushforward=3)
    draws = [module.pushed(windows(GRID, size=2, history=HISTORY, frames=1, seed=seed)) for seed in range(40)]
    assert set(draws) == {0, 1, 2, 3}
    whole = windows(GRID, size=4, history=HISTORY, frames=1, seed=1)
    seed = int(whole.seeds[0])
    part = replace(first(whole, 1), seeds=whole.seeds[2:3], share=Share(4, seed))
    assert module.pushed(part) == module.pushed(whole) == mix(seed, PUSHFORWARD_STREAM) % 4


def test_pushed_steps_in_half_precision_do_not_keep_weights_from_learning() -> None:
    module = training(pushforward=1)
    batch = batch_with_pushes(module, wanted=1, frames=2)
    with torch.autocast("cpu", torch.bfloat16):
        module.training_step(batch, 0).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.model.parameters())


def test_noise_belongs_to_the_sample_and_is_in_units_of_the_change() -> None:
    module = training(noise=0.2)
    batch = windows(GRID, size=3, history=HISTORY, frames=1)
    module.training_step(batch, 0)
    shown = module.model.network.shown[-1] * 1.5 + 0.3  # type: ignore[union-attr,operator]
    draws = randn_per_sample(batch.seeds, (HISTORY, *GRID.shape, 1), stream=NOISE_STREAM)
    torch.testing.assert_close(shown, batch.past + 0.2 * 0.7 * draws, rtol=0, atol=1e-6)
    assert torch.equal(module.noisy(first(batch, 1)), module.noisy(batch)[:1])


@pytest.mark.parametrize("kind", ["fluctuation", "increment"])
def test_losses_with_units_take_those_of_the_training(kind: str) -> None:
    module = training(loss=LossConfig(kind=kind))  # type: ignore[arg-type]
    batch = windows(GRID, size=3, history=HISTORY, frames=1)
    if kind == "fluctuation":
        with pytest.raises(ConfigError, match="set_scales"):
            module.training_step(batch, 0)
    scales = measured([batch.past[0], batch.past[1]], GRID)
    module.set_scales(scales)
    unit = scales.fluctuation[0, 0] if kind == "fluctuation" else scales.std_delta[0]
    error = module.model(batch.past, GRID) - batch.future[:, 0]
    expected = error.square().mean(dim=(1, 2, 3)).sqrt().mean() / unit
    torch.testing.assert_close(module.training_step(batch, 0), expected.float())
    assert not any("fluctuation" in name for name in module.state_dict())


def test_the_horizon_grows_over_the_curriculum() -> None:
    seen: list[int] = []

    class Watched(TurbulenceTraining):
        def training_step(self, batch: FieldBatch, batch_idx: int) -> Tensor:
            seen.append(self.horizon())
            return super().training_step(batch, batch_idx)

    stepper = PointwiseConfig(components=1, axes=2, history=HISTORY)
    module = Watched(TurbulenceTrainingConfig(stepper=stepper, horizon=3, curriculum=0.5))
    batches = [windows(GRID, size=2, history=HISTORY, frames=3, seed=k) for k in range(4)]
    trainer(12).fit(module, loader(batches))
    assert seen == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3]


def test_validation_says_the_errors_of_the_first_and_the_last_step_over_all_samples() -> None:
    stepper = PointwiseConfig(components=1, axes=2, history=HISTORY)
    module = TurbulenceTrainingConfig(stepper=stepper, validation_horizon=3).build()
    whole = windows(GRID, size=5, history=HISTORY, frames=3)
    rest = replace(whole, ids=whole.ids[2:], seeds=whole.seeds[2:], past=whole.past[2:], future=whole.future[2:])
    (found,) = trainer(1).validate(module, loader([first(whole, 2), rest]), verbose=False)

    with torch.no_grad():
        past, losses, frames = whole.past, [], []
        for step in range(3):
            frames.append(module.model(past, GRID))
            losses.append(relative_l2(frames[-1], whole.future[:, step]).mean())
            past = torch.cat([past[:, 1:], frames[-1][:, None]], dim=1)
    still = whole.past[:, -1]
    expected = {
        "val/loss": torch.stack(losses).mean(),
        "val/relative_l2": losses[0],
        "val/relative_l2_last": losses[2],
        "val/vrmse": vrmse(frames[0], whole.future[:, 0]).mean(),
        "val/vrmse_last": vrmse(frames[2], whole.future[:, 2]).mean(),
        "val/persistence_relative_l2": relative_l2(still, whole.future[:, 0]).mean(),
        "val/persistence_relative_l2_last": relative_l2(still, whole.future[:, 2]).mean(),
        "val/persistence_vrmse": vrmse(still, whole.future[:, 0]).mean(),
        "val/persistence_vrmse_last": vrmse(still, whole.future[:, 2]).mean(),
    }
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5)


def test_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    a = training(seed=4).model.state_dict()
    torch.manual_seed(2)
    b = training(seed=4).model.state_dict()
    other = training(seed=5).model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], other[name]) for name in a)


def test_refuses_windows_that_are_too_short() -> None:
    with pytest.raises(PenstockError, match="3 frames after the history, got 2"):
        training(horizon=3).training_step(windows(GRID, size=1, history=HISTORY, frames=2), 0)


def test_windows_must_hold_what_training_and_validation_look_at() -> None:
    assert TurbulenceTrainingConfig().frames == 1
    assert TurbulenceTrainingConfig(horizon=2, pushforward=3).frames == 5
    assert TurbulenceTrainingConfig(horizon=2, validation_horizon=7).frames == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "at least 1 step"),
        ({"pushforward": -1}, "at least 0"),
        ({"curriculum": 1.5}, "share of the training"),
        ({"noise": -0.1}, "noise"),
    ],
)
def test_refuses_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TurbulenceTrainingConfig(**options)


# ------------------------------------------------------------------------------------------------ a flow that is known

TORUS = Grid((fourier("x", 12, 2 * np.pi), fourier("y", 12, 2 * np.pi)))


def advected(size: int, frames: int, seed: int) -> Tensor:
    """Scalar fields carried along by a uniform wind and diffused: exact frames [size, frames, x, y, 1], float32."""
    kx, ky = torch.meshgrid(torch.fft.fftfreq(12, 1 / 12), torch.fft.rfftfreq(12, 1 / 12), indexing="ij")
    resolved = (kx.abs() < 6) & (ky < 6)
    step = torch.exp(-0.02 * (kx**2 + ky**2) - 1j * (0.7 * kx + 0.3 * ky))
    noise = torch.randn(size, 12, 12, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.fft.rfft2(noise) * resolved
    films = []
    for _ in range(frames):
        films.append(torch.fft.irfft2(spectrum, s=(12, 12)))
        spectrum = spectrum * step
    return torch.stack(films, dim=1)[..., None]


def films(count: int, frames: int, seed: int) -> list[FieldBatch]:
    found = []
    for number in range(count):
        film = advected(8, 1 + frames, seed + number)
        ids = tuple(f"{seed + number}-{k}" for k in range(8))
        found.append(FieldBatch(ids=ids, seeds=torch.arange(8), past=film[:, :1], future=film[:, 1:], grid=TORUS))
    return found


@pytest.mark.parametrize(
    "options",
    [{}, {"increment": True, "loss": LossConfig(kind="fluctuation", spectral=0.01)}],
    ids=["published", "increment"],
)
def test_learns_a_linear_flow(options: dict[str, Any]) -> None:
    """One Fourier layer can hold the exact step: a factor for each mode."""
    options = dict(options)
    increment = options.pop("increment", False)
    network = FNOConfig(modes=12, width=4, layers=1, positions=False)
    config = TurbulenceTrainingConfig(
        stepper=StepperConfig(components=1, axes=2, increment=increment, network=network),
        optimizer=OptimizerConfig(learning_rate=3e-2),
        validation_horizon=5,
        **options,
    )
    module = config.build()
    train = films(12, config.frames, seed=0)
    module.set_scales(measured([torch.cat([b.past[k], b.future[k]]) for b in train for k in range(4)], TORUS))
    fitted = trainer(160, check_val_every_n_epoch=10)
    fitted.fit(module, loader(train), loader(films(1, 5, seed=500)))
    found = {name: float(value) for name, value in fitted.callback_metrics.items()}
    assert found["val/persistence_relative_l2"] > 0.9
    assert found["val/relative_l2"] < 0.08
    assert found["val/relative_l2_last"] < 0.5
