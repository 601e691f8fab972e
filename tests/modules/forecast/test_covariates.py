"""The linear path of covariates: zero at first, then what least squares says; gaps count as the recent mean."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.covariates import covariate_features, covariate_path, feature_count, recent_mean
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.normalisation import WindowStatistics

SHAPE = WindowShape(look_back=12, horizon=4, targets=2, observed=1, known=2, static=3, season=6)


def window(seed: int = 0, batch: int = 5, shape: WindowShape = SHAPE) -> WindowBatch:
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(batch, *sizes, generator=generator)

    return WindowBatch(
        ids=(),
        seeds=torch.arange(batch),
        past=normal(shape.look_back, shape.targets),
        future=normal(shape.horizon, shape.targets),
        observed=normal(shape.look_back, shape.observed),
        known=normal(shape.look_back + shape.horizon, shape.known),
        static=normal(shape.static),
    )


def test_recent_mean_takes_what_was_measured_then_the_window_then_zero() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).expand(3, 4)[..., None].clone()
    mask = torch.tensor([[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)[..., None]
    assert recent_mean(values, mask, 2).flatten().tolist() == [4.0, 1.5, 0.0]
    assert recent_mean(values, None, 2).flatten().tolist() == [3.5] * 3


def test_no_path_without_covariates() -> None:
    assert covariate_path(WindowShape(calendar=4), Head()) is None


def test_starts_at_zero_and_has_the_head_s_outputs() -> None:
    path = covariate_path(SHAPE, Head(kind="normal"))
    assert path is not None
    added = path(window(), None)
    assert added.shape == (5, 4, 2, 2)
    assert not added.any()


def test_features_are_less_their_mean_over_the_last_season() -> None:
    batch = window()
    assert batch.observed is not None
    assert batch.known is not None
    features = covariate_features(batch, SHAPE, 8)
    assert features.shape[1] == feature_count(SHAPE, 8) == 8 + 2 * (8 + 4) + 3
    expected = batch.observed[:, 4:, 0] - batch.observed[:, 6:, 0].mean(dim=1, keepdim=True)
    torch.testing.assert_close(features[:, :8], expected)
    shifted = replace(batch, observed=batch.observed + 7.0, known=batch.known - 3.0)
    torch.testing.assert_close(covariate_features(shifted, SHAPE, 8), features, rtol=0, atol=1e-5)


def test_a_gap_counts_as_the_mean_of_the_rest() -> None:
    batch = window()
    assert batch.known is not None
    mask = torch.ones_like(batch.known, dtype=torch.bool)
    mask[:, 9, 0] = False
    mask[:, 14, 1] = False
    garbage = replace(batch, known=batch.known.masked_fill(~mask, 1e6), known_mask=mask)
    rest = batch.known[:, [6, 7, 8, 10, 11], 0].mean(dim=1)
    filled = batch.known.clone()
    filled[:, 9, 0] = rest
    filled[:, 14, 1] = batch.known[:, 6:12, 1].mean(dim=1)
    expected = covariate_features(replace(batch, known=filled), SHAPE, 8)
    torch.testing.assert_close(covariate_features(garbage, SHAPE, 8), expected, rtol=0, atol=1e-5)


def test_adds_the_same_in_calm_and_wild_windows() -> None:
    path = covariate_path(SHAPE, Head())
    assert path is not None
    torch.nn.init.normal_(path.linear.weight)
    batch = window()
    statistics = WindowStatistics(torch.zeros(5, 1, 2), torch.rand(5, 1, 2) + 0.1)
    out_of_units = Head().finish(path(batch, statistics), statistics)
    torch.testing.assert_close(out_of_units, path(batch, None), rtol=0, atol=1e-5)


def test_learns_the_known_future() -> None:
    shape = WindowShape(look_back=12, horizon=4, known=1, season=12)
    path = covariate_path(shape, Head())
    assert path is not None
    batch = window(batch=200, shape=shape)
    assert batch.known is not None
    wanted = 2.0 * (batch.known[:, 12:] - batch.known[:, :12].mean(dim=1, keepdim=True))
    features = covariate_features(batch, shape, 12)
    solution = torch.linalg.pinv(features.double()) @ wanted[..., 0].double()  # centred: not of full rank
    with torch.no_grad():
        path.linear.weight.copy_(solution.T)
    torch.testing.assert_close(path(batch, None)[..., 0], wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("missing", ["observed", "known", "static"])
def test_says_which_columns_are_missing(missing: str) -> None:
    path = covariate_path(SHAPE, Head())
    assert path is not None
    with pytest.raises(ConfigError, match=f"{missing} columns, the windows have 0"):
        path(replace(window(), **{missing: None}), None)
