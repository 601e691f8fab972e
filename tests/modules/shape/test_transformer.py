"""Laws of the velocity network: an unordered set, exact shortcuts, self-contained statistics."""

import pytest
import torch

from data.errors import ConfigError, PenstockError
from modules.shape.transformer import ShapeTransformer, ShapeTransformerConfig


def network(**changes: int | None) -> ShapeTransformer:
    """A small network with every parameter away from its initial value."""
    sizes = {"latent_channels": 3, "width": 16, "layers": 4, "heads": 2, "condition_width": 6} | changes
    built = ShapeTransformerConfig(**sizes).build()  # type: ignore[arg-type]
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=source))
    return built.eval()


def inputs(batch: int = 3, tokens: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    x = torch.randn(batch, tokens, 3, generator=source)
    condition = torch.randn(batch, 4, 6, generator=source)
    return x, torch.linspace(0.1, 0.9, batch, dtype=torch.float64), condition


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_latents_are_a_set_and_so_is_the_condition():
    model, (x, t, condition) = network(), inputs()
    order, other = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 3, 1, 0])
    close(model(x[:, order], t, condition[:, other]), model(x, t, condition)[:, order])


@torch.no_grad()
def test_samples_do_not_see_each_other():
    model, (x, t, condition) = network(), inputs()
    close(model(x[1:2], t[1:2], condition[1:2]), model(x, t, condition)[1:2])


@torch.no_grad()
def test_no_condition_is_a_condition_of_zeros():
    model, (x, t, condition) = network(second_condition_width=5), inputs()
    zeros = model(x, t, torch.zeros_like(condition), torch.zeros(3, 2, 5), scales=(1.0, 0.4))
    close(model(x, t, scales=(1.0, 0.4)), zeros)
    assert (model(x, t, condition) - model(x, t)).abs().max() > 1e-2


@torch.no_grad()
def test_a_projected_condition_gives_the_same_bits():
    model, (x, t, condition) = network(), inputs()
    assert torch.equal(model(x, t, model.project_condition(condition)), model(x, t, condition))


@torch.no_grad()
def test_one_time_for_all_is_that_time_for_each():
    model, (x, _, condition) = network(), inputs()
    one = torch.tensor([0.37], dtype=torch.float64)
    close(model(x, one, condition), model(x, one.expand(3), condition))


@torch.no_grad()
def test_velocity_depends_on_time_all_along():
    """Neighbouring times give different, nearby velocities at both ends of the path."""
    model, (x, _, condition) = network(), inputs()
    for t in (0.0, 0.5, 0.999):
        here, there = (model(x, torch.tensor([v], dtype=torch.float64), condition) for v in (t, t + 1e-4))
        assert 1e-5 < (here - there).abs().max() < 0.5 * here.abs().max()


@torch.no_grad()
def test_any_number_of_tokens():
    model, (_, t, condition) = network(), inputs()
    for tokens in (1, 2, 33):
        assert model(torch.zeros(3, tokens, 3), t, condition).shape == (3, tokens, 3)


def test_every_parameter_takes_part():
    model, (x, t, condition) = network(classes=2, second_condition_width=5), inputs()
    tokens = model.condition_tokens(condition, torch.tensor([0, 1, 1]))
    model(x, t, tokens, torch.ones(3, 2, 5)).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_a_new_network_begins_with_the_velocity_zero():
    model = ShapeTransformerConfig(latent_channels=3, width=16, layers=3, heads=2, condition_width=None).build()
    x, t, _ = inputs()
    assert torch.equal(model(x, t), torch.zeros_like(x))


def test_normalisation_is_undone_and_travels_with_the_state():
    model, latents = network(), 5 + 2 * torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    model.set_latent_statistics(torch.tensor([5.0, 4.0, 5.0]), torch.tensor([2.0, 1.0, 3.0]))
    torch.testing.assert_close(model.denormalise(model.normalise(latents)), latents)
    copy = network()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.normalise(latents), model.normalise(latents))
    assert {"latent_mean", "latent_std"} <= model.state_dict().keys()


def test_labels_choose_their_token():
    model, labels = network(classes=3), torch.tensor([2, 0])
    tokens = model.condition_tokens(labels=labels)
    assert tokens is not None
    assert tokens.shape == (2, 1, 6)
    assert not torch.equal(tokens[0], tokens[1])
    with_images = model.condition_tokens(torch.zeros(2, 4, 6), labels)
    assert with_images is not None
    assert torch.equal(with_images[:, 4:], tokens)


def test_user_mistakes_are_named():
    model, (x, t, condition) = network(), inputs()
    with pytest.raises(PenstockError, match=r"8 channels.*expects 6"):
        model(x, t, torch.zeros(3, 4, 8))
    with pytest.raises(PenstockError, match="second condition"):
        model(x, t, condition, torch.zeros(3, 4, 8))
    with pytest.raises(PenstockError, match="without classes"):
        model.condition_tokens(labels=torch.tensor([0]))
    with pytest.raises(PenstockError, match=r"0 … 2, got 0 … 3"):
        network(classes=3).condition_tokens(labels=torch.tensor([0, 3]))
    with pytest.raises(PenstockError, match="positive deviations"):
        model.set_latent_statistics(torch.zeros(3), torch.tensor([1.0, 0.0, 1.0]))
    with pytest.raises(ConfigError, match="width=16 and heads=3"):
        ShapeTransformerConfig(width=16, heads=3)
    with pytest.raises(ConfigError, match="must be even"):
        ShapeTransformerConfig(width=15, heads=5)
    with pytest.raises(ConfigError, match="needs condition_width"):
        ShapeTransformerConfig(condition_width=None, second_condition_width=4)
