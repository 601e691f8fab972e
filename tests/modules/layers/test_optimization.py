"""The combined optimizer against torch's own, and the schedule against its definition."""

import copy
import math

import pytest
import torch
from torch import nn

from modules.layers.optimization import OptimizerConfig, orthogonalise


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(3, 16)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.output = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.input(x)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.output(x)


def gradients(network: nn.Module, step: int) -> None:
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(step))
    network.zero_grad()
    (network(x).squeeze(-1) - x.sin().sum(-1)).square().mean().backward()


def test_adamw_is_torch_adamw() -> None:
    torch.manual_seed(0)
    ours = Network()
    theirs = copy.deepcopy(ours)
    optimizer, _ = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1, warmup=0.0).build(ours, 10)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99), eps=1e-8)
    for step in range(10):
        for network, stepper in ((ours, optimizer), (theirs, reference)):
            gradients(network, step)
            stepper.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_muon_is_torch_muon_up_to_its_bfloat16() -> None:
    torch.manual_seed(0)
    ours = Network()
    theirs = copy.deepcopy(ours)
    optimizer, _ = OptimizerConfig(kind="muon", learning_rate=1e-2, warmup=0.0).build(ours, 10)
    blocks = [p for p in theirs.blocks.parameters() if p.ndim == 2]
    others = [p for p in theirs.parameters() if all(p is not q for q in blocks)]
    muon = torch.optim.Muon(
        blocks, lr=1e-2, weight_decay=0.0, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(others, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0)
    start = [p.clone() for p in blocks]
    for step in range(5):
        gradients(ours, step)
        optimizer.step()
        gradients(theirs, step)
        muon.step()
        adamw.step()
    for before, a, b in zip(start, ours.blocks, theirs.blocks, strict=True):
        ours_moved, theirs_moved = (a.weight - before).flatten(), (b.weight - before).flatten()
        assert torch.cosine_similarity(ours_moved, theirs_moved, dim=0) > 0.97
        assert ours_moved.norm().item() == pytest.approx(theirs_moved.norm().item(), rel=0.03)


@pytest.mark.parametrize("shape", [(12, 12), (8, 20), (20, 8)])
def test_orthogonalise_keeps_singular_vectors_and_levels_singular_values(shape: tuple[int, int]) -> None:
    matrices = torch.randn(4, *shape, dtype=torch.float64)
    u, values, vt = torch.linalg.svd(matrices, full_matrices=False)
    levelled = u.transpose(-2, -1) @ orthogonalise(matrices) @ vt.transpose(-2, -1)
    diagonal = levelled.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(levelled, torch.diag_embed(diagonal), rtol=0, atol=1e-9)
    large = values > 0.1 * values.amax(-1, keepdim=True)
    assert ((diagonal > 0.6) & (diagonal < 1.3))[large].all()


def test_muon_takes_the_matrices_of_the_blocks_only() -> None:
    network = Network()
    optimizer, _ = OptimizerConfig(kind="muon").build(network, 10)
    taken = {id(p) for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    assert taken == {id(block.weight) for block in network.blocks}


def test_schedule_rises_to_one_and_falls_to_its_end() -> None:
    config = OptimizerConfig(learning_rate=2.0, warmup=0.1, final=0.01)
    optimizer, schedule = config.build(Network(), 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([2.0 * (k + 1) / 10 for k in range(10)])
    assert max(rates) == pytest.approx(2.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    middle = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi / 2))
    assert rates[55] == pytest.approx(2.0 * middle)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)


def test_a_saved_and_restored_optimizer_takes_the_same_steps() -> None:
    torch.manual_seed(0)
    config = OptimizerConfig(kind="muon", learning_rate=1e-2)
    ours = Network()
    optimizer, schedule = config.build(ours, 20)
    for step in range(6):
        gradients(ours, step)
        optimizer.step()
        schedule.step()
    restored = copy.deepcopy(ours)
    second, second_schedule = config.build(restored, 20)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    second_schedule.load_state_dict(schedule.state_dict())
    for step in range(6, 12):
        for network, stepper, rate in ((ours, optimizer, schedule), (restored, second, second_schedule)):
            gradients(network, step)
            stepper.step()
            rate.step()
    for a, b in zip(ours.parameters(), restored.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("kind", "reference"), [("adam", torch.optim.Adam), ("radam", torch.optim.RAdam)])
def test_published_optimizers_are_torchs(kind: str, reference: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    ours = Network()
    theirs = copy.deepcopy(ours)
    optimizer, _ = OptimizerConfig(kind=kind, learning_rate=1e-2, warmup=0.0, beta2=0.999).build(ours, 10)  # type: ignore[arg-type]
    plain = reference(theirs.parameters(), lr=1e-2)  # type: ignore[call-arg]
    for step in range(10):
        for network, stepper in ((ours, optimizer), (theirs, plain)):
            gradients(network, step)
            stepper.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_geometric_schedule_halves_after_every_epoch() -> None:
    config = OptimizerConfig(schedule="geometric", warmup=0.0, decay=0.5, decay_every=0.1)
    assert [config.factor(step, 70) for step in (0, 6, 7, 13, 14, 69)] == [1, 1, 0.5, 0.5, 0.25, 0.5**9]
    held = OptimizerConfig(schedule="geometric", warmup=0.0, decay=0.8, decay_every=1 / 30, hold=0.1)
    assert [held.factor(step, 300) for step in (0, 39, 40, 50)] == pytest.approx([1, 1, 0.8, 0.64])
