"""A sample is a function of (seed, index) alone, bit for bit; and the flow lands where it should."""

import pytest
import torch

from data.errors import ConfigError, PenstockError
from modules.shape.sampling import ELEMENTS_PER_CALL, LatentSamplingConfig, sample_latents, samples_per_call
from modules.shape.transformer import ShapeTransformer, ShapeTransformerConfig

STEPS = LatentSamplingConfig(steps=2, guidance=2.5)


def network(width: int, heads: int = 2, classes: int = 0, condition_width: int | None = None) -> ShapeTransformer:
    config = ShapeTransformerConfig(
        latent_channels=3, width=width, layers=3, heads=heads, classes=classes, condition_width=condition_width
    )
    built, source = config.build(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=source))
    built.set_latent_statistics(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 2.0, 1.0]))
    return built.eval()


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("width", "tokens"), [(16, 1), (48, 17), (128, 65)], ids=str)
def test_a_sample_has_the_same_bits_in_any_portion(width: int, tokens: int, rows: int, monkeypatch: pytest.MonkeyPatch):
    """Portions of 1, 3, 4, all at once and out of order, where 1 or 4 samples share a call."""
    monkeypatch.setitem(ELEMENTS_PER_CALL, "cpu", rows * width * tokens)
    model = network(width, classes=5)
    count = 9

    def portion(indices: list[int]) -> torch.Tensor:
        labels = [k % 5 for k in indices]
        return sample_latents(model, STEPS, seed=7, indices=indices, tokens=tokens, labels=labels)

    together = portion(list(range(count)))
    for size in (1, 3, 4):
        pieces = [portion(list(range(k, min(k + size, count)))) for k in range(0, count, size)]
        assert torch.equal(torch.cat(pieces), together)
    assert torch.equal(portion([8, 2, 5]), together[[8, 2, 5]])


def test_rows_per_call_depend_on_sizes_alone():
    device = torch.device("cpu")
    assert samples_per_call(64, 16, device) == 16
    assert samples_per_call(128, 64, device) == 8
    assert samples_per_call(2048, 2048, device) == 1


def test_samples_differ_between_indices_and_seeds():
    model = network(32)
    drawn = sample_latents(model, STEPS, seed=7, indices=range(20), tokens=4).flatten(1)
    assert len({tuple(row) for row in drawn.tolist()}) == 20
    other = sample_latents(model, STEPS, seed=8, indices=range(20), tokens=4).flatten(1)
    assert not (drawn == other).all(dim=1).any()


def test_the_same_noise_answers_another_condition():
    """Only the condition of the changed sample matters to the bits of the others."""
    model, source = network(32, condition_width=6), torch.Generator().manual_seed(1)
    condition = torch.randn(4, 2, 6, generator=source)
    changed = condition.clone()
    changed[2] = -changed[2]
    before, after = (
        sample_latents(model, STEPS, seed=7, indices=range(4), tokens=4, condition=c) for c in (condition, changed)
    )
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert not torch.equal(before[2], after[2])


def test_guidance_zero_forgets_the_condition_and_one_needs_no_other_branch():
    model, condition = network(32, condition_width=6), torch.ones(3, 2, 6)

    def drawn(guidance: float, given: torch.Tensor | None) -> torch.Tensor:
        config = LatentSamplingConfig(steps=3, guidance=guidance)
        return sample_latents(model, config, seed=7, indices=range(3), tokens=4, condition=given)

    assert torch.equal(drawn(0.0, condition), drawn(1.0, None))
    assert not torch.equal(drawn(1.0, condition), drawn(1.0, None))
    # Guidance is linear in the velocity, so it must move samples on from the conditional ones.
    assert not torch.equal(drawn(2.0, condition), drawn(1.0, condition))


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_new_network_returns_its_noise_in_the_units_of_the_latents(solver: str):
    """Its velocity is zero, so samples are mean + deviation · noise."""
    model = ShapeTransformerConfig(latent_channels=2, width=16, layers=2, heads=2, condition_width=None).build()
    model.set_latent_statistics(torch.tensor([3.0, -1.0]), torch.tensor([0.1, 2.0]))
    config = LatentSamplingConfig(steps=2, solver=solver)  # type: ignore[arg-type]
    drawn = sample_latents(model, config, seed=0, indices=range(500), tokens=8).flatten(end_dim=1)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([3.0, -1.0]), rtol=0, atol=0.15)
    torch.testing.assert_close(drawn.std(0), torch.tensor([0.1, 2.0]), rtol=0.05, atol=0)


def test_progress_counts_to_the_end():
    seen: list[int] = []
    sample_latents(network(16), STEPS, seed=0, indices=range(40), tokens=2, progress=seen.append)
    assert seen == [16, 32, 40]


def test_user_mistakes_are_named():
    model = network(16)
    with pytest.raises(PenstockError, match="distinct"):
        sample_latents(model, STEPS, seed=0, indices=[1, 1], tokens=2)
    with pytest.raises(PenstockError, match=r"labels: expected one entry per sample, 2, got 1"):
        sample_latents(network(16, classes=2), STEPS, seed=0, indices=[0, 1], tokens=2, labels=[0])
    with pytest.raises(PenstockError, match="without classes"):
        sample_latents(model, STEPS, seed=0, indices=[0], tokens=2, labels=[0])
    with pytest.raises(ConfigError, match="guidance"):
        LatentSamplingConfig(guidance=-1.0)
    with pytest.raises(ConfigError, match="steps=0"):
        LatentSamplingConfig(steps=0)
