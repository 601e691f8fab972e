"""Quaternions, IGSO(3) and frames against numbers of the published implementation.

Fixtures are found by their files, and every size is read from them. Where the published code is coarser than ours (its
logarithm is linear below 2.8 mrad, its matrix logarithm errs near pi) both are held against the exact values as well.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.geometry import quaternion
from modules.geometry.frames import backbone_from_frames, beta_carbon, frames_from_backbone, place_oxygen
from modules.geometry.igso3 import IGSO3
from modules.geometry.manifold import SO3
from modules.transport.path import GeodesicPath

pytestmark = pytest.mark.golden

PRECISIONS = pytest.mark.parametrize(
    ("name", "dtype", "atol"), [("f32", torch.float32, 2e-6), ("f64", torch.float64, 2e-6)], ids=["f32", "f64"]
)


@dataclass(frozen=True)
class Fixture:
    """One file of tensors, and the words beside it where there are any."""

    path: Path

    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)

    def exact_rows(self) -> int:
        """How many of the pairs are at a known angle, axis and sign, and so have an exact rotation vector."""
        labels = json.loads(self.path.with_suffix(".json").read_text())["labels"]
        return sum(label.startswith("angle=") for label in labels)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per fixture whose name begins with the kind in the test's `fixture` argument."""
    kinds = [kind for kind in ("quaternion", "igso3", "frames") if f"{kind}_fixture" in metafunc.fixturenames]
    for kind in kinds:
        folder = Path(metafunc.config.getoption("--golden")) / "protein"
        found = [
            pytest.param(Fixture(path), id=f"protein-{path.stem}")
            for path in sorted(folder.glob(f"{kind}_*.safetensors"))
        ]
        absent = pytest.param(
            None, id=f"protein-no-{kind}", marks=pytest.mark.skip(f"no {kind}_* fixtures in {folder}; see --golden DIR")
        )
        metafunc.parametrize(f"{kind}_fixture", found or [absent])


def ends(io: dict[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return quaternion.normalise(io["in.q0"].to(dtype)), quaternion.normalise(io["in.q1"].to(dtype))


def assert_same_rotations(actual: Tensor, expected: Tensor, atol: float) -> None:
    expected = torch.where((actual * expected).sum(-1, keepdim=True) < 0, -expected, expected)
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@PRECISIONS
def test_protein_geodesics(quaternion_fixture: Fixture, name: str, dtype: torch.dtype, atol: float):
    """The published interpolation at every time of the file, also beyond the end."""
    io = quaternion_fixture.tensors()
    q0, q1 = ends(io, dtype)
    path = GeodesicPath(SO3())
    for t, expected in zip(io["in.ts"], io[f"{name}.slerp_exp"], strict=True):
        assert_same_rotations(path.sample(q0, q1, t.expand(len(q0))).x_t, expected, atol)


@PRECISIONS
def test_protein_rotation_vectors(quaternion_fixture: Fixture, name: str, dtype: torch.dtype, atol: float):
    """Compared as rotations: at exactly pi the sign of the axis is free."""
    io = quaternion_fixture.tensors()
    q0, q1 = ends(io, dtype)
    assert_same_rotations(quaternion.exp(SO3().log(q0, q1)), quaternion.exp(io[f"{name}.log_q0_to_q1"]), atol)
    for q_t, expected in zip(io[f"{name}.slerp_exp"], io[f"{name}.log_qt_to_q1"], strict=True):
        vector = SO3().log(quaternion.normalise(q_t), q1)
        assert_same_rotations(quaternion.exp(vector), quaternion.exp(expected), atol)


def test_protein_rotation_vectors_are_nearer_to_the_exact_ones(quaternion_fixture: Fixture):
    """A microradian in float32, rounding in float64, at every angle; the matrix logarithm misses by 2e-2."""
    io, rows = quaternion_fixture.tensors(), quaternion_fixture.exact_rows()
    exact = io["analytic.rotvec_q0_to_q1"][:rows]

    def error(vectors: Tensor) -> Tensor:
        difference, other = vectors.double() - exact, vectors.double() + exact
        at_pi = (exact.norm(dim=-1) > torch.pi - 1e-7) & (other.norm(dim=-1) < difference.norm(dim=-1))
        return torch.where(at_pi, other.norm(dim=-1), difference.norm(dim=-1))

    assert rows > 0
    ours = {dtype: error(SO3().log(*ends(io, dtype))[:rows]).max() for dtype in (torch.float32, torch.float64)}
    assert ours[torch.float32] < 1e-6
    assert ours[torch.float64] < 1e-14
    assert ours[torch.float64] < error(io["f64.log_q0_to_q1"][:rows]).max()
    assert error(io["f64.matrix_rotvec_q0_to_q1"][:rows]).max() > 1e-3


@PRECISIONS
def test_protein_rotation_matrices(quaternion_fixture: Fixture, name: str, dtype: torch.dtype, atol: float):
    io = quaternion_fixture.tensors()
    for q, key in zip(ends(io, dtype), ("rotmat_q0", "rotmat_q1"), strict=True):
        expected = io[f"{name}.{key}"]
        torch.testing.assert_close(quaternion.to_matrix(q), expected, rtol=0, atol=atol)
        assert_same_rotations(quaternion.from_matrix(expected), q, atol)


def test_protein_gradient_of_the_logarithm(quaternion_fixture: Fixture):
    """Where the published gradient is smooth; ours is finite in every row."""
    io = quaternion_fixture.tensors()
    q0, q1 = io["in.q0"].float().requires_grad_(), io["in.q1"].float()
    SO3().log(quaternion.normalise(q0), quaternion.normalise(q1)).square().sum().backward()
    assert torch.isfinite(q0.grad).all()
    torch.testing.assert_close(q0.grad, io["f32.grad_sumsq_log_wrt_q0"], rtol=1e-4, atol=2e-4)


def test_protein_igso3(igso3_fixture: Fixture):
    """Distribution on the file's grid of angles, and the angles of its uniform draws; sigma = 1.5."""
    io = igso3_fixture.tensors()
    distribution = IGSO3(1.5)
    torch.testing.assert_close(distribution.cdf(io["omega_grid"]), io["cdf"].double(), rtol=0, atol=2e-6)
    torch.testing.assert_close(distribution.angle(io["uniform"]), io["angle"], rtol=0, atol=1e-5)


def test_protein_frames_of_atoms(frames_fixture: Fixture):
    io = frames_fixture.tensors()
    frames = frames_from_backbone(io["raw_N_CA_C_O"])
    torch.testing.assert_close(quaternion.to_matrix(frames[..., :4]), io["rotmats"], rtol=0, atol=2e-6)
    assert_same_rotations(frames[..., :4], io["quats"], 2e-6)
    centred = frames[..., 4:] - frames[..., 4:].mean(0)
    torch.testing.assert_close(centred, io["centred_CA"], rtol=0, atol=1e-5)


def test_protein_atoms_of_frames(frames_fixture: Fixture):
    io = frames_fixture.tensors()
    frames = torch.cat([io["quats"], io["trans"]], dim=-1)
    atoms = place_oxygen(backbone_from_frames(frames))
    expected = io["rebuilt_with_placed_O"]
    torch.testing.assert_close(atoms[:, :3], expected[:, :3], rtol=0, atol=1e-5)
    torch.testing.assert_close(atoms[:, 3], expected[:, 4], rtol=0, atol=1e-5)
    torch.testing.assert_close(beta_carbon(frames), expected[:, 3], rtol=0, atol=1e-5)
