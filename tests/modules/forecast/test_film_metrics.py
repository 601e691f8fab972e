"""Errors of films on cases that can be reckoned by hand."""

import pytest
import torch

from modules.forecast.film_metrics import film_floors, film_scores, frame_errors, structural_similarity


def test_sums_over_the_pixels_of_each_frame():
    actual = torch.zeros(2, 3, 2, 8, 8)
    predicted = actual.clone()
    predicted[1, 2, :, :4] = -0.5  # 2 channels, 32 pixels each
    errors = frame_errors(predicted, actual)
    assert errors["mse"].tolist() == [[0, 0, 0], [0, 0, pytest.approx(16)]]
    assert errors["mae"].tolist() == [[0, 0, 0], [0, 0, pytest.approx(32)]]
    scores = film_scores(predicted, actual)
    assert scores["mse"] == pytest.approx(16 / 6) and scores["mae"] == pytest.approx(32 / 6)
    assert scores["ssim"] == pytest.approx(float(structural_similarity(predicted, actual).mean()))


def test_similarity_of_equal_constant_and_opposite_frames():
    frames = torch.rand(1, 2, 1, 16, 16)
    torch.testing.assert_close(structural_similarity(frames, frames), torch.ones(1, 2))
    # Constant frames a and b: (2ab + c) / (a² + b² + c) with c = 0.01².
    a, b = torch.full((1, 1, 1, 9, 9), 0.2), torch.full((1, 1, 1, 9, 9), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4)
    assert structural_similarity(a, b).item() == pytest.approx(expected, rel=1e-5)
    assert structural_similarity(frames, 1 - frames).max() < 0
    torch.testing.assert_close(structural_similarity(a + 2, torch.ones_like(a)), torch.ones(1, 1))  # cut to [0, 1]
    assert structural_similarity(torch.ones(1, 1, 1, 4, 4), torch.ones(1, 1, 1, 4, 4)).item() == pytest.approx(1)


def test_floors():
    past = torch.arange(12.0).view(1, 3, 1, 2, 2)
    floors = film_floors(past, 5)
    assert {name: film.shape for name, film in floors.items()} == dict.fromkeys(
        ("zeros", "mean", "copy_last"), torch.Size([1, 5, 1, 2, 2])
    )
    assert floors["zeros"].abs().max() == 0
    torch.testing.assert_close(floors["mean"][0, 4], past[0].mean(dim=0))
    torch.testing.assert_close(floors["copy_last"][0, 2], past[0, -1])
