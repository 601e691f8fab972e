"""How wrong predicted films are, by the convention of video prediction, and the films that nobody has to learn.

Squares and absolutes are summed over the pixels and channels of a frame, values in [0, 1], and averaged over frames and
films; SSIM (Wang et al. 2004) with data range 1 after cutting predictions to [0, 1].
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SSIM_WINDOW = 7
"""Pixels of the side of SSIM's window; less in smaller frames."""


def frame_errors(
    predicted: Float[Tensor, "batch later channel height width"],
    actual: Float[Tensor, "batch later channel height width"],
) -> dict[str, Float[Tensor, "batch later"]]:
    """`mse` and `mae` of every frame."""
    missed = (predicted - actual).flatten(2)
    return {"mse": missed.square().sum(dim=2), "mae": missed.abs().sum(dim=2)}


def structural_similarity(
    predicted: Float[Tensor, "batch later channel height width"],
    actual: Float[Tensor, "batch later channel height width"],
) -> Float[Tensor, "batch later"]:
    """SSIM of every frame, 1 where equal."""
    from skimage.metrics import structural_similarity as ssim

    ours, theirs = (film.detach().cpu().double().numpy() for film in (predicted.clamp(0, 1), actual))
    side = min(SSIM_WINDOW, *ours.shape[-2:])
    window = side - (side + 1) % 2
    found = [
        [ssim(a, b, channel_axis=0, data_range=1.0, win_size=window) for a, b in zip(film, other, strict=True)]
        for film, other in zip(ours, theirs, strict=True)
    ]
    return torch.from_numpy(np.array(found, np.float32).reshape(ours.shape[:2]))


def film_scores(
    predicted: Float[Tensor, "batch later channel height width"],
    actual: Float[Tensor, "batch later channel height width"],
) -> dict[str, float]:
    """`mse`, `mae` and `ssim`, averaged over frames and films: one row of a table."""
    errors = {**frame_errors(predicted, actual), "ssim": structural_similarity(predicted, actual)}
    return {name: float(value.mean()) for name, value in errors.items()}


def film_floors(
    past: Float[Tensor, "batch time channel height width"], later: int
) -> dict[str, Float[Tensor, "batch later channel height width"]]:
    """Predictions without learning: all black, the mean of what was seen, the last frame again."""
    films = {"zeros": torch.zeros_like(past[:, :1]), "mean": past.mean(dim=1, keepdim=True), "copy_last": past[:, -1:]}
    return {name: film.expand(-1, later, -1, -1, -1) for name, film in films.items()}
