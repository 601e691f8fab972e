"""xPatch held against recursions and layers written out, and its laws with gaps and covariates."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.xpatch import Smoothing, XPatch, XPatchConfig, smoothing_matrix

SHAPE = WindowShape(look_back=30, horizon=6, targets=3)


def built(config: XPatchConfig, shape: WindowShape = SHAPE, head: Head | None = None) -> XPatch:
    network = config.build(shape, head or Head())
    for name, p in network.named_parameters():
        torch.nn.init.uniform_(p, *((0.5, 1.5) if "norm.weight" in name or "affine.weight" in name else (-0.3, 0.3)))
    return network.eval()


def window(shape: WindowShape = SHAPE, batch: int = 2) -> WindowBatch:
    known = torch.randn(batch, shape.look_back + shape.horizon, shape.known) if shape.known else None
    past = torch.randn(batch, shape.look_back, shape.targets) * 3 + 5
    return WindowBatch(ids=(), seeds=torch.zeros(batch).long(), past=past, known=known)


def smoothed(x: Tensor, kind: Smoothing, a: float, c: float) -> Tensor:
    level, rise, found = x[0], x[1] - x[0], [x[0]]
    for value in x[1:]:
        if kind == "exponential":
            level = a * value + (1 - a) * level
        else:
            new = a * value + (1 - a) * (level + rise)
            rise, level = c * (new - level) + (1 - c) * rise, new
        found.append(level)
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["exponential", "double"])
def test_smoothing_matrix_is_the_recursion(kind: Smoothing):
    x = torch.randn(512, dtype=torch.float64).cumsum(0)
    torch.testing.assert_close(smoothing_matrix(512, kind, 0.3, 0.2) @ x, smoothed(x, kind, 0.3, 0.2))


def test_smoothing_keeps_what_it_should():
    constant, line = torch.ones(40, dtype=torch.float64), torch.arange(40, dtype=torch.float64)
    torch.testing.assert_close(smoothing_matrix(40, "exponential", 0.3, 0.3) @ constant, constant)
    torch.testing.assert_close(smoothing_matrix(40, "double", 0.3, 0.3) @ line, line)


def transcription(network: XPatch, past: Tensor) -> Tensor:
    c, (batch, _, targets) = network.config, past.shape
    centre, deviation = past.mean(1, keepdim=True), (past.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    x = (past - centre) / deviation
    x = (x * network.affine.weight + network.affine.bias).permute(0, 2, 1).reshape(batch * targets, -1)
    trend = x if c.smoothing == "none" else torch.stack([smoothed(row, c.smoothing, c.level, c.slope) for row in x])
    rest = x if c.smoothing == "none" else x - trend
    n, t = network.patches, network.trend
    if c.pad:
        rest = F.pad(rest[:, None], (0, c.stride), mode="replicate")[:, 0]
    starts = range(0, rest.shape[1] - c.patch + 1, c.stride)
    patches = torch.stack([rest[:, s : s + c.patch] for s in starts], dim=1)
    wide = n.embed_norm(F.gelu(n.embed(patches)))
    narrow = n.depthwise_norm(F.gelu(n.depthwise(wide))) + n.residual(wide)
    mixed = n.pointwise_norm(F.gelu(F.conv1d(narrow, n.pointwise.weight[..., None], n.pointwise.bias)))
    first = n.contract(F.gelu(n.expand(mixed.flatten(1))))
    halved = t.first_norm(t.first(trend).unflatten(-1, (-1, 2)).mean(-1))
    second = t.third(t.second_norm(t.second(halved).unflatten(-1, (-1, 2)).mean(-1)))
    answer = network.output(torch.cat([first, second], dim=1)).view(batch, targets, -1).transpose(1, 2)
    return (answer - network.affine.bias) / network.affine.weight * deviation + centre


@torch.no_grad()
@pytest.mark.parametrize("smoothing", ["exponential", "double", "none"])
@pytest.mark.parametrize("pad", [True, False])
def test_equals_a_plain_transcription(smoothing: Smoothing, pad: bool):
    network, given = built(XPatchConfig(patch=8, stride=5, smoothing=smoothing, pad=pad)), window()
    torch.testing.assert_close(network(given)[..., 0], transcription(network, given.past), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("normalise", [True, False])
def test_what_was_not_measured_has_no_influence(normalise: bool):
    network, given = built(XPatchConfig(patch=8, stride=4, normalise=normalise)), window()
    mask = torch.rand_like(given.past) > 0.3
    answers = [
        network(WindowBatch(ids=(), seeds=given.seeds, past=given.past.masked_fill(~mask, filled), past_mask=mask))
        for filled in (0.0, 1e3)
    ]
    torch.testing.assert_close(*answers, rtol=0, atol=0)


@torch.no_grad()
def test_known_future_and_a_distribution():
    shape = WindowShape(look_back=30, horizon=6, targets=3, known=2)
    network, given = built(XPatchConfig(patch=8, stride=4), shape, Head(kind="student")), window(shape)
    answer = network(given)
    assert answer.shape == (2, 6, 3, 3)
    assert (answer[..., 1] > 0).all() and (answer[..., 2] > 2).all()
    changed = WindowBatch(**{**vars(given), "known": 2 * given.known})
    assert not torch.allclose(network(changed), answer)


def test_refuses_what_cannot_be():
    with pytest.raises(ConfigError, match="level"):
        XPatchConfig(level=0.0)
    with pytest.raises(ConfigError, match="patch"):
        XPatchConfig(patch=64, stride=8).build(SHAPE, Head())
    with pytest.raises(ConfigError, match="halves"):
        XPatchConfig().build(WindowShape(look_back=30, horizon=1), Head())
