"""The published operators' fixtures, and our network with their weights."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.turbulence.ifactformer import IFactFormer, IFactFormerConfig
from modules.turbulence.import_weights import convert

AXES = "xyz"
VARIANTS = {"m_head": "head", "m_legacy": "legacy", "o_head": "chained"}
"""What the fixtures call the variants → what we call them."""


@dataclass(frozen=True)
class TurbulenceFixture:
    """One pair NAME.safetensors and NAME.json; tensors in float32 but where their name says _f64."""

    path: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.path.with_suffix(".json").read_text())
        return found

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below a prefix (`weights.`, `first_call.`, `grad.`), without it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    @cached_property
    def converted(self) -> tuple[IFactFormerConfig, dict[str, Tensor]]:
        return convert(self.under("weights."), iterations=self.facts["model"]["n_layer"])

    @property
    def config(self) -> IFactFormerConfig:
        return self.converted[0]

    def network(self, dtype: torch.dtype = torch.float32) -> IFactFormer:
        """Our network with the fixture's weights; float64: the float32 weights cast up."""
        network = self.config.build()
        network.load_state_dict(self.converted[1], strict=True)
        return network.to(dtype)

    def coordinates(self, group: str = "input", dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Coordinates of each axis as the network was given them; group: input or alt."""
        return [self.tensors[f"{group}.pos_{axis}"][:, 0].to(dtype) for axis in AXES[: self.config.axes]]

    def step(self, network: IFactFormer, past: Tensor, group: str = "input") -> Tensor:
        """The next physical frame from physical frames."""
        mean, std = (self.tensors[f"input.{name}"].to(past.dtype) for name in ("mean", "std"))
        return network.evolve((past - mean) / std, self.coordinates(group, past.dtype)) * std + mean

    def losses(self, predicted: Tensor) -> Tensor:
        """Relative L2 error of each sample, over all points and components."""
        target = self.tensors["input.target"]
        return (predicted - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)

    def tolerance(self, step: int | None = None) -> float:
        """What float32 may differ by: 2e-5 after one step, 1e-4 after five, or what it was found to lose there."""
        lost = self.facts["max_abs_diff_f32_vs_f64"]
        if step is None:
            return max(2e-5, 2 * lost["one_step"])
        return float(max(2e-5 + 2e-5 * step, 2 * lost["rollout5"][step]))


def parametrized(metafunc: pytest.Metafunc) -> None:
    """Give a test's `fixture` argument every fixture in the folder, or skip it with a reason."""
    if "fixture" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("--golden")) / "turbulence"
    pairs = [path for path in sorted(folder.glob("*.safetensors")) if path.with_suffix(".json").exists()]
    found = [pytest.param(TurbulenceFixture(path), id=path.stem) for path in pairs]
    skip = pytest.mark.skip(f"no fixtures in {folder}; see --golden DIR")
    metafunc.parametrize("fixture", found or [pytest.param(None, id="turbulence-none", marks=skip)])
