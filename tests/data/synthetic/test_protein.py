"""Synthetic chains are sound backbones: real bonds and angles, right-handed helices, bonded strands, no clash.

Secondary structure and torsions are measured by mdtraj, which knows nothing of how the chains were made.
"""

import re

import mdtraj
import numpy as np
import pytest

from data.batch import UNKNOWN, Backbone
from data.errors import ConfigError
from data.synthetic.blueprints import FAMILIES
from data.synthetic.folding import Energy, draw_loops, radius_law, radius_of_gyration
from data.synthetic.protein import SyntheticProteinConfig, generate, synthetic_ids
from data.synthetic.torsions import Stiff, build

CONFIG = SyntheticProteinConfig(count=6, seed=1, min_length=40, max_length=72)


def trajectory(atoms: np.ndarray) -> mdtraj.Trajectory:
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for number in range(len(atoms)):
        residue = topology.add_residue("ALA", chain, number + 1)
        for name in ("N", "CA", "C", "O"):
            topology.add_atom(name, mdtraj.element.Element.getBySymbol(name[0]), residue)
    return mdtraj.Trajectory(atoms.reshape(1, -1, 3) / 10, topology)


def structure(chain: Backbone) -> str:
    return "".join(mdtraj.compute_dssp(trajectory(chain.atoms), simplified=True)[0])


def angle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    first, second = a - b, c - b
    cosine = (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)
    return np.degrees(np.arccos(cosine))


def close_pairs(points: np.ndarray, residue: np.ndarray, limit: float) -> int:
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return int((np.triu(distance < limit) & (residue[None] - residue[:, None] >= 2)).sum())


@pytest.fixture(scope="module")
def chains() -> dict[str, Backbone]:
    return dict(generate(CONFIG, k) for k in range(CONFIG.count))


class TestTorsions:
    def test_are_those_that_mdtraj_measures(self) -> None:
        rng = np.random.default_rng(0)
        phi, psi, omega = rng.uniform(-np.pi, np.pi, (3, 40))
        chain = trajectory(build(phi, psi, omega, Stiff.draw(40, rng)).atoms)
        for measured, asked in (
            (mdtraj.compute_phi(chain)[1][0], phi[1:]),
            (mdtraj.compute_psi(chain)[1][0], psi[:-1]),
            (mdtraj.compute_omega(chain)[1][0], omega[:-1]),
        ):
            assert np.abs(np.exp(1j * measured) - np.exp(1j * asked)).max() < 1e-4

    def test_keep_the_given_bonds_angles_and_planes(self) -> None:
        rng = np.random.default_rng(1)
        stiff = Stiff.draw(30, rng)
        built = build(*rng.uniform(-np.pi, np.pi, (3, 30)), stiff)
        trace = built.trace
        assert np.linalg.norm(np.diff(trace, axis=0), axis=1) == pytest.approx(stiff.bonds.reshape(-1))
        degrees = np.degrees(stiff.angles.reshape(-1)[:-1])
        assert angle(trace[:-2], trace[1:-1], trace[2:]) == pytest.approx(degrees)
        ca, c, following = trace[1::3], trace[2::3], trace[3::3]
        volume = ((built.oxygen - c) * np.cross(ca - c, following - c)).sum(-1)
        assert np.abs(volume).max() < 1e-9
        assert np.linalg.norm(built.oxygen - c, axis=-1) == pytest.approx(1.233)

    def test_of_an_alpha_helix_rise_one_and_a_half_angstrom_per_residue(self) -> None:
        """3.6 residues a turn and 5.4 Å pitch (Pauling 1951) at the classical torsions."""
        helix = build(
            *np.full((2, 37), np.radians(-57.0)) * [[1.0], [47 / 57]],
            np.full(37, np.pi),
            Stiff.draw(37, np.random.default_rng(2)),
        )
        ca = helix.atoms[:, 1]
        assert np.linalg.norm(ca[36] - ca[0]) / 36 == pytest.approx(1.5, abs=0.1)


def test_the_gradient_of_the_energy_is_that_of_its_differences() -> None:
    rng = np.random.default_rng(3)
    plan = None
    while plan is None:
        plan = FAMILIES["mixed"](rng, 50)
    plan = draw_loops(plan, rng, plan.loops)
    energy = Energy(plan, Stiff.draw(50, rng), np.full(50, np.pi), 7.0, np.full((2, 50), 5.0))
    angles = np.concatenate([plan.phi, plan.psi]) + 0.1 * rng.standard_normal(100)
    value, gradient = energy(angles)
    assert value > 100
    for k in range(0, 100, 7):
        step = np.zeros(100)
        step[k] = 1e-6
        difference = (energy(angles + step)[0] - energy(angles - step)[0]) / 2e-6
        assert gradient[k] == pytest.approx(difference, rel=1e-4, abs=1e-3)


class TestChains:
    def test_have_the_bonds_and_angles_of_real_chains(self, chains: dict[str, Backbone]) -> None:
        """Means of 29,519 residues of the PDB, within five of their standard deviations everywhere."""
        for chain in chains.values():
            n, ca, c, o = (chain.atoms[:, k].astype(np.float64) for k in range(4))
            for first, second, mean, sd in (
                (n, ca, 1.460, 0.013),
                (ca, c, 1.525, 0.012),
                (c[:-1], n[1:], 1.328, 0.011),
                (c, o, 1.233, 0.011),
                (ca[:-1], ca[1:], 3.804, 0.04),
            ):
                assert np.abs(np.linalg.norm(first - second, axis=-1) - mean).max() < 5 * sd
            for one, middle, other, mean, sd in (
                (n, ca, c, 111.1, 3.0),
                (ca[:-1], c[:-1], n[1:], 116.6, 1.5),
                (c[:-1], n[1:], ca[1:], 121.6, 1.9),
            ):
                assert np.abs(angle(one, middle, other) - mean).max() < 5 * sd
            omega = np.degrees(mdtraj.compute_omega(trajectory(chain.atoms))[1][0])
            assert (180 - np.abs(omega)).max() < 10

    def test_have_no_clash(self, chains: dict[str, Backbone]) -> None:
        for chain in chains.values():
            residue = np.arange(len(chain))
            assert close_pairs(chain.atoms.reshape(-1, 3), residue.repeat(4), 2.6) == 0
            assert close_pairs(chain.atoms[:, 1], residue, 3.6) == 0

    def test_are_what_their_family_says(self, chains: dict[str, Backbone]) -> None:
        for item_id, chain in chains.items():
            found = structure(chain)
            helix, strand = found.count("H") / len(found), found.count("E") / len(found)
            assert 1 - helix - strand < 0.5
            if item_id.startswith("bundle"):
                assert helix > 0.6 and strand < 0.05 and len(re.findall("H{6,}", found)) >= 2
            elif item_id.startswith("sheet"):
                assert strand > 0.4 and helix < 0.1 and len(re.findall("E{2,}", found)) >= 3
            else:
                assert helix > 0.1 and strand > 0.05

    def test_wind_their_helices_to_the_right(self, chains: dict[str, Backbone]) -> None:
        """CA torsion of +50° in a right-handed α helix, -50° in its mirror image, which DSSP calls H too."""
        seen = 0
        for chain in chains.values():
            found, ca = structure(chain), chain.atoms[:, 1]
            first, middle, last = (ca[k : len(ca) - 3 + k] for k in range(3))
            end = ca[3:]
            volume = (np.cross(middle - first, last - middle) * (end - last)).sum(-1)
            inside = np.array([found[k : k + 4] == "HHHH" for k in range(len(ca) - 3)])
            seen += inside.sum()
            assert (volume[inside] > 0).all()
        assert seen > 60

    def test_stay_in_the_basins_of_the_ramachandran_plane(self, chains: dict[str, Backbone]) -> None:
        phi = np.concatenate([mdtraj.compute_phi(trajectory(c.atoms))[1][0] for c in chains.values()])
        assert 0 < (phi > 0).mean() < 0.12
        assert (np.abs(np.degrees(phi)) > 20).all()

    def test_are_as_compact_as_real_chains(self, chains: dict[str, Backbone]) -> None:
        """Real chains of one length: 5th to 95th percentile of Rg over its law are 0.9 to 1.2."""
        for chain in chains.values():
            assert 0.85 < radius_of_gyration(chain.atoms[:, 1]) / radius_law(len(chain)) < 1.3
        contacts = [close_pairs(c.atoms[:, 1], np.arange(len(c)), 8.0) / len(c) for c in chains.values()]
        assert np.mean(contacts) > 1.5

    def test_are_centred_complete_and_of_unknown_residues(self, chains: dict[str, Backbone]) -> None:
        assert tuple(chains) == synthetic_ids(CONFIG)
        for chain in chains.values():
            assert CONFIG.min_length <= len(chain) <= CONFIG.max_length
            assert np.abs(chain.atoms[:, 1].mean(axis=0)).max() < 1e-4
            assert chain.atoms.dtype == np.float32 and chain.present.all() and chain.resolved.all()
            assert chain.residue_index.tolist() == list(range(1, len(chain) + 1))
            assert set(chain.residue_type) == {UNKNOWN} and not chain.chain.any()

    def test_depend_on_configuration_and_index_alone(self, chains: dict[str, Backbone]) -> None:
        item_id, again = generate(CONFIG, 4)
        assert np.array_equal(again.atoms, chains[item_id].atoms)
        _, longer = generate(SyntheticProteinConfig(count=500, seed=1, min_length=40, max_length=72), 4)
        assert np.array_equal(longer.atoms, again.atoms)
        _, other = generate(SyntheticProteinConfig(count=6, seed=2, min_length=40, max_length=72), 4)
        assert len(other) != len(again) or not np.array_equal(other.atoms, again.atoms)


@pytest.mark.parametrize(("family", "letter"), [("helix", "H"), ("hairpin", "E")])
def test_a_single_helix_and_a_single_hairpin_are_only_that(family: str, letter: str) -> None:
    config = SyntheticProteinConfig(count=2, families=(family,), min_length=24, max_length=32)
    for index in range(2):
        found = structure(generate(config, index)[1])
        assert found.count(letter) > 0.6 * len(found) and set(found) <= {letter, "C"}


@pytest.mark.parametrize("length", [24, 47, 128])
def test_one_length_alone_can_be_asked_for(length: int) -> None:
    config = SyntheticProteinConfig(count=3, min_length=length, max_length=length)
    assert [len(generate(config, k)[1]) for k in (1, 2)] == [length] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"families": ("bundle", "knot")},
        {"families": ()},
        {"count": 0},
        {"min_length": 90},
        {"min_length": 5},
        {"max_length": 500},
    ],
)
def test_values_that_make_no_chain_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="synthetic"):
        SyntheticProteinConfig(**{"max_length": 80, **wrong})
