"""The backbone network against numbers of the published implementation.

Fixtures are found by their files and every size is read from them. Weights come in under the original's key names,
through the importer that `penstock import` uses. Tolerances are those that come with the fixtures.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.protein.import_weights import import_reqflow
from modules.protein.network import ProteinNetwork

pytestmark = pytest.mark.golden

ATOL_ANGSTROM, ATOL_QUATERNION = 1e-3, 5e-5


@dataclass(frozen=True)
class Fixture:
    """The files of one configuration."""

    folder: Path
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return json.loads((self.folder / f"network_{self.name}.json").read_text())

    def tensors(self, kind: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{kind}_{self.name}.safetensors")

    def forward(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"network_{self.name}_forward.safetensors")

    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"network_{self.name}_state_dict.safetensors")

    def network(self) -> ProteinNetwork:
        config, state = import_reqflow(self.weights(), {"model": self.settings["model_config"]})
        network = config.build()
        network.load_state_dict(state)
        return network.eval()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fixture" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("--golden")) / "protein"
    names = sorted(path.stem.removeprefix("network_") for path in folder.glob("network_*.json"))
    found = [pytest.param(Fixture(folder, name), id=f"protein-network-{name}") for name in names]
    skip = pytest.mark.skip(f"no network_* fixtures in {folder}; see --golden DIR")
    metafunc.parametrize("fixture", found or [pytest.param(None, id="protein-no-network", marks=skip)])


def answer(network: ProteinNetwork, given: dict[str, Tensor], self_condition: Tensor | None) -> Tensor:
    return network(
        torch.cat([given["in.rotquats_t"], given["in.trans_t"]], dim=-1),
        given["in.so3_t"].flatten(),
        given["in.r3_t"].flatten(),
        resolved=given["in.res_mask"].bool(),
        generated=given["in.diffuse_mask"].bool(),
        residue_index=given["in.res_idx"].long(),
        self_condition=self_condition,
    )


@torch.no_grad()
@pytest.mark.parametrize("conditioned", [False, True], ids=["alone", "self-conditioned"])
def test_network_predicts_the_same_frames(fixture: Fixture, conditioned: bool):
    io = fixture.forward()
    frames = answer(fixture.network(), io, io["in.trans_sc"] if conditioned else None)
    expected, real = ("out_sc" if conditioned else "out_nosc"), io["in.res_mask"].bool()
    torch.testing.assert_close(frames[..., 4:][real], io[f"{expected}.pred_trans"][real], rtol=0, atol=ATOL_ANGSTROM)
    quaternions, theirs = frames[..., :4][real], io[f"{expected}.pred_rotquats"][real]
    sign = (quaternions * theirs).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(quaternions * sign, theirs, rtol=0, atol=ATOL_QUATERNION)
