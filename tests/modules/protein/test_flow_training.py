"""Flow training of backbones: randomness from seeds alone, stored pairs as they are, a start that knows the chain."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from data.batch import BackboneBatch, FramePairBatch
from data.errors import ConfigError, PenstockError
from modules.geometry import quaternion
from modules.geometry.frames import backbone_from_frames, frames_from_backbone, place_oxygen
from modules.geometry.manifold import FRAMES
from modules.layers.optimization import OptimizerConfig
from modules.layers.random import mix
from modules.protein.chain_start import ChainStart
from modules.protein.corruption import draw_noise
from modules.protein.flow_training import ProteinFlowTraining
from modules.protein.losses import ProteinLossConfig
from modules.protein.network import ProteinNetworkConfig
from modules.protein.training_config import ProteinFlowTrainingConfig

LENGTH = 24
SMALL = ProteinNetworkConfig(
    node_width=32, edge_width=16, blocks=2, heads=4, head_width=8, query_points=2, value_points=4, pair_value_width=4,
    transformer_layers=1, transformer_heads=2, index_channels=16, time_channels=16, edge_channels=32,
    edge_start="carry",
)  # fmt: skip


def helix(length: int = LENGTH) -> Tensor:
    """N, CA, C, O of an ideal helix: 100° and 1.5 Å from one residue to the next, CA 2.3 Å from the axis."""
    k = torch.arange(length, dtype=torch.float64)
    turn = torch.deg2rad(100.0 * k)
    zero = torch.zeros_like(k)
    turns = torch.stack([(turn / 2).cos(), zero, zero, (turn / 2).sin()], -1)
    first = torch.tensor([[1.0, 0.0, 0.6, 0.3]], dtype=torch.float64)
    rotations = quaternion.multiply(turns, quaternion.normalise(first).expand(length, 4))
    places = torch.stack([2.3 * turn.cos(), 2.3 * turn.sin(), 1.5 * k], -1)
    return place_oxygen(backbone_from_frames(torch.cat([rotations, places], -1))).float()


def batch_of(count: int, seed: int = 0, length: int = LENGTH, pad: int = 0) -> BackboneBatch:
    atoms = torch.zeros(count, length + pad, 4, 3)
    atoms[:, :length] = helix(length) + 50.0
    present = torch.zeros(count, length + pad, 4, dtype=torch.bool)
    present[:, :length] = True
    return BackboneBatch(
        ids=tuple(str(k) for k in range(count)),
        seeds=torch.tensor([mix(seed, k) for k in range(count)]),
        atoms=atoms,
        present=present,
        residue_index=torch.arange(1, length + pad + 1).expand(count, -1) * present[:, :, 0],
        chain=torch.zeros(count, length + pad, dtype=torch.int64),
    )


def training(**changes: object) -> ProteinFlowTraining:
    torch.manual_seed(0)
    settings: dict = {"network": SMALL, "self_condition": 0.0, "rotation_noise": "uniform"} | changes
    return ProteinFlowTrainingConfig(**settings).build()


def rows(batch: BackboneBatch, keep: list[int]) -> BackboneBatch:
    return BackboneBatch(
        ids=tuple(batch.ids[k] for k in keep),
        seeds=batch.seeds[keep],
        atoms=batch.atoms[keep],
        present=batch.present[keep],
        residue_index=batch.residue_index[keep],
        chain=batch.chain[keep],
    )


@pytest.mark.parametrize("noise", ["uniform", "igso3"])
def test_what_a_sample_is_trained_on_follows_from_its_seed_alone(noise: str):
    module = training(rotation_noise=noise, motif_share=0.5)
    batch = batch_of(6)
    whole, part = module.corrupted(batch), module.corrupted(rows(batch, [4, 1]))
    for name in ("source", "target", "noised", "t", "generated"):
        assert torch.equal(getattr(whole, name)[[4, 1]], getattr(part, name)), name
    again = module.corrupted(batch, draw=1)
    assert not torch.equal(again.t, whole.t) and not torch.equal(again.source, whole.source)
    torch.manual_seed(99)
    assert torch.equal(module.corrupted(batch).noised, whole.noised)


def test_padding_changes_nothing():
    module = training(loss=ProteinLossConfig(bond=1.0, local=1.0, clash=1.0))
    plain = module.losses(module.corrupted(batch_of(3))).total
    padded = module.losses(module.corrupted(batch_of(3, pad=9))).total
    torch.testing.assert_close(padded, plain, rtol=1e-4, atol=1e-5)


def test_data_is_centred_on_its_motif_or_on_itself():
    at = training(motif_share=0.5).corrupted(batch_of(8))
    motif = ~at.generated
    assert motif.any(1).any() and not motif.any(1).all()
    for row in range(8):
        around = motif[row] if motif[row].any() else at.resolved[row]
        torch.testing.assert_close(at.target[row, around, 4:].mean(0), torch.zeros(3), rtol=0, atol=1e-4)
        assert torch.equal(at.noised[row, motif[row]], at.target[row, motif[row]])


def test_stored_pairs_keep_both_ends():
    source, target = (draw_noise(torch.arange(k, k + 2), torch.ones(2, 8, dtype=torch.bool)) for k in (0, 5))
    index = torch.arange(1, 9).expand(2, -1)
    pairs = FramePairBatch(("a", "b"), torch.tensor([1, 2]), source, target, index, torch.ones(2, 8, dtype=torch.bool))
    at = training(coupling="optimal", rotation_noise="igso3", motif_share=1.0).corrupted(pairs)
    assert torch.equal(at.source, source) and torch.equal(at.target, target) and at.generated.all()
    way = at.t[:, None, None] * FRAMES.log(source, target)
    torch.testing.assert_close(FRAMES.log(source, at.noised), way, rtol=0, atol=1e-4)


@pytest.mark.parametrize("noise", ["uniform", "igso3"])
def test_optimal_coupling_gives_noise_to_the_nearest_data_of_its_length(noise: str):
    batch = batch_of(6)
    short = batch.present.clone()
    short[3:, 15:] = False
    batch = BackboneBatch(batch.ids, batch.seeds, batch.atoms, short, batch.residue_index, batch.chain)
    plain, paired = (
        training(coupling=coupling, rotation_noise=noise).corrupted(batch) for coupling in ("independent", "optimal")
    )

    def cost(at, part: slice) -> float:
        way = FRAMES.log(at.source[part], at.target[part])[..., 3:]
        return way.square().sum().item()

    for part in (slice(0, 3), slice(3, 6)):
        assert cost(paired, part) <= cost(plain, part) + 1e-2
        # the same noises, in another order
        ours, theirs = (sorted(at.source[part, :, 4:].abs().sum((1, 2)).tolist()) for at in (paired, plain))
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_times_keep_away_from_both_ends():
    module = training(least_time=0.2)
    t = module.times(torch.arange(500))
    assert 0.2 <= t.min() < 0.22 and 0.78 < t.max() <= 0.8


def test_chain_start_looks_along_the_chain_before_the_first_step():
    """Heads of every block put most of their edges' weight on the residue before, on the one behind, and around."""
    network = training(start=ChainStart(windows=((-1.0, 1.5), (1.0, 1.5), (0.0, 3.0), (0.0, 0.0)))).model
    at = training().corrupted(batch_of(1, length=40))
    nodes = network.node_embedding(
        at.t, at.t, resolved=at.resolved, generated=at.generated, residue_index=at.residue_index
    )
    edges = network._embed_edges(nodes, at.noised[..., 4:], None, at.resolved, at.generated)
    for block in network.blocks:
        weights = (block.attention.edge_bias(edges) / 3**0.5).softmax(dim=2)[0]
        inner = torch.arange(5, 35)
        assert weights[inner, inner - 1, 0].mean() > 5 * weights[inner, inner + 1, 0].mean()
        assert weights[inner, inner + 1, 1].mean() > 5 * weights[inner, inner - 1, 1].mean()
        near = sum(weights[inner, inner + k, 2].mean() for k in range(-2, 3))
        assert near > 0.5
        torch.testing.assert_close(weights[..., 3], torch.full_like(weights[..., 3], 1 / 40), rtol=0.05, atol=0)
    # the same weights whenever it is applied
    again = training(start=ChainStart(windows=((-1.0, 1.5), (1.0, 1.5), (0.0, 3.0), (0.0, 0.0)))).model
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def fitted(folder: Path, steps: int) -> tuple[ProteinFlowTraining, Trainer]:
    module = training(
        start=ChainStart(),
        loss=ProteinLossConfig(clamp=None, bond=0.3, local=1.0),
        optimizer=OptimizerConfig(kind="muon", learning_rate=5e-3),
        self_condition=0.2,
    )
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        gradient_clip_val=1.0,
    )
    batches: list[BackboneBatch] = [batch_of(4, seed=step) for step in range(steps)]
    validation = DataLoader([batch_of(4, seed=500)], batch_size=None)  # type: ignore[arg-type, var-annotated]
    trainer.fit(module, DataLoader(batches, batch_size=None), validation)  # type: ignore[arg-type]
    return module, trainer


def test_a_short_training_through_lightning_learns_the_helix(tmp_path: Path):
    def measured(module: ProteinFlowTraining) -> dict[str, Tensor]:
        with torch.no_grad():
            return module.losses(module.corrupted(batch_of(16, seed=777))).means()

    module, trainer = fitted(tmp_path, 90)
    before = measured(training(start=ChainStart(), loss=module.config.loss))
    after = measured(module)
    assert after["structural"] < 0.5 * before["structural"]
    assert after["translation"] < 0.8 * before["translation"]
    assert {"train/loss", "val/loss", "val/structural"} <= set(trainer.callback_metrics)


def test_two_trainings_with_the_same_seeds_give_the_same_weights(tmp_path: Path):
    one, other = (fitted(tmp_path, 4)[0] for _ in range(2))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frames_of_the_helix_are_where_its_atoms_are():
    """The fixture itself: neighbours 3.8 Å apart."""
    places = frames_from_backbone(helix())[:, 4:]
    torch.testing.assert_close(places.diff(dim=0).norm(dim=-1), torch.full((LENGTH - 1,), 3.83), rtol=0, atol=0.02)


def test_user_mistakes_are_named():
    for changes, message in (
        ({"least_time": 0.5}, "least_time"),
        ({"self_condition": 1.5}, "self_condition"),
        ({"motif_share": -0.1}, "motif_share"),
        ({"validation_draws": 0}, "validation_draws"),
    ):
        with pytest.raises(ConfigError, match=message):
            ProteinFlowTrainingConfig(**changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="windows"):
        ChainStart(windows=())
    empty = batch_of(1)
    empty = BackboneBatch(
        empty.ids, empty.seeds, empty.atoms, torch.zeros_like(empty.present), empty.residue_index, empty.chain
    )
    with pytest.raises(PenstockError, match="resolved"):
        training().training_step(empty, 0)
