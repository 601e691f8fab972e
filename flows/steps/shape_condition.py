"""Pictures as conditions: read, encoded once, and handed to the latents file or to the sampler."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from configs.shape import ShapeConfig
from data.errors import PenstockError
from data.images import find_images, read_image
from modules.shape.image import ImageEncoder


def item_condition(config: ShapeConfig, ids: Sequence[str]) -> Callable[[str], dict[str, np.ndarray]]:
    """What the latents file stores of an item's picture: its tokens, or nothing in a run without pictures.

    Raises PenstockError, before anything is encoded, where an item has no picture or the encoder does not fit.
    """
    if config.images.folder is None:
        return lambda item_id: {}
    paths = find_images(Path(config.images.folder), ids)
    encoder = _fitting_encoder(config)
    return lambda item_id: {"condition": encoder([read_image(paths[item_id])])[0].numpy()}


def image_tokens(config: ShapeConfig, image: str | None, count: int) -> Float[Tensor, "sample token width"] | None:
    """The tokens of one picture, for each of `count` samples; None without a picture."""
    if image is None:
        return None
    return _fitting_encoder(config)([read_image(Path(image))]).expand(count, -1, -1)


def _fitting_encoder(config: ShapeConfig) -> ImageEncoder:
    encoder = config.images.encoder.build()
    expected = config.flow.network.condition_width
    if encoder.width != expected:
        raise PenstockError(
            f"the image encoder '{config.images.encoder.model}' gives tokens of {encoder.width} channels, but "
            f"flow.network.condition_width is {expected}: set it to {encoder.width}, or name another encoder."
        )
    return encoder
