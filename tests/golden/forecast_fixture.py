"""The published forecasters' fixtures, found by what they say of their source, and the comparisons all share."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

OUT_RTOL, GRADIENT_RTOL, TRAINED_RTOL, BATCH_NORM_RTOL = 2e-5, 1e-5, 1e-4, 1e-2
"""Of the largest |y|, of the largest gradient of the whole model, of the largest |y| after three steps of Adam."""

Rename = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""From a dictionary under the reference's key names to one under ours (weights, or gradients)."""


@dataclass(frozen=True)
class ForecastFixture:
    """One pair NAME.safetensors and NAME.json."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.path.with_suffix(".json").read_text())
        return found

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = self.facts["config"]
        return found

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below a prefix (`state`, `in`, `out`, `train/grad`), without it."""
        return {
            name.removeprefix(prefix + "/"): value
            for name, value in self.tensors.items()
            if name.startswith(prefix + "/")
        }

    @property
    def source(self) -> tuple[str, str]:
        """Repository and class, by which a fixture is recognised whatever its name."""
        return str(self.facts["source"]).split(" at ")[0], f"{self.facts['file']}:{self.facts['class'].split(' ')[0]}"


def forecast_fixtures(folder: Path, *files: str) -> list[ForecastFixture]:
    """The fixtures in `folder` whose source file ends with one of `files`, e.g. "iTransformer.py"; all without any."""
    pairs = [path for path in sorted(folder.glob("*.safetensors")) if path.with_suffix(".json").exists()]
    found = [ForecastFixture(path) for path in pairs]
    return [one for one in found if not files or str(one.facts["file"]).endswith(files)]


def parametrized(metafunc: pytest.Metafunc, *files: str) -> None:
    """Give a test's `fixture` argument every fixture of these source files, or skip it with a reason."""
    if "fixture" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("--golden")) / "forecast"
    found = [pytest.param(one, id=f"forecast-{one.name}") for one in forecast_fixtures(folder, *files)]
    skip = pytest.mark.skip(f"no fixtures of {', '.join(files)} in {folder}; see --golden DIR")
    metafunc.parametrize("fixture", found or [pytest.param(None, id="forecast-none", marks=skip)])


def assert_near(ours: Tensor, theirs: Tensor, rtol: float) -> None:
    """Equal up to `rtol` of the largest absolute value of theirs."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=rtol * float(theirs.abs().max()))


def assert_same_training(
    network: nn.Module,
    answer: Callable[[], Tensor],
    fixture: ForecastFixture,
    rename: Rename,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.mse_loss,
    batch_norm: bool = False,
) -> None:
    """Gradients of step 1, and the answer after three steps of Adam on the fixture's batch.

    `answer` calls the network on the fixture's input; its result has the shape of `train/target`'s prediction.
    """
    target = fixture.tensors["train/target"]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network.train()
    for step in range(3):
        optimizer.zero_grad()
        value = loss(answer(), target)
        value.backward()
        assert abs(value.item() - fixture.facts["train"]["loss_per_step"][step]) <= 1e-4 * abs(value.item())
        if step == 0:
            assert_same_gradients(network, dict(rename(fixture.under("train/grad"))))
        optimizer.step()
    network.eval()
    with torch.no_grad():
        trained = answer()
    rtol = BATCH_NORM_RTOL if batch_norm else TRAINED_RTOL
    assert_near(trained, fixture.tensors["train/out_after_3_adam_steps"], rtol)


def assert_same_gradients(network: nn.Module, theirs: Mapping[str, Tensor]) -> None:
    """Every gradient that they give, under our names; `theirs` must name every parameter that we train."""
    ours = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert set(ours) <= set(theirs), f"no gradient given for {sorted(set(ours) - set(theirs))}"
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, p in ours.items():
        gradient = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(
            gradient, theirs[name], rtol=0, atol=GRADIENT_RTOL * largest, msg=lambda m, n=name: f"{n}: {m}"
        )
