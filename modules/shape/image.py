"""Image conditions: from a picture of an object to the tokens that the velocity network attends to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from data.errors import PenstockError

# ImageNet statistics, which DINOv2 was trained with (Oquab et al. 2023).
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
MARGIN = 0.1
"""Padding on each side of the object, as a share of its longer side (TripoSG)."""


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig:
    model: str = "facebook/dinov2-large"
    """A folder with config.json and model.safetensors, or a hub name that is already in the local cache."""
    size: int = 224
    """Side of the square that the network sees, pixels; a multiple of its patch size."""

    def build(self) -> "ImageEncoder":
        return ImageEncoder(self)


def frame_object(picture: UInt8[np.ndarray, "height width 4"]) -> Float[Tensor, "3 side side"]:
    """The object on a white square with a margin of 10 %, values 0 to 1.

    Alpha tells the object from the background; a picture without transparency is taken whole. Segmentation is left to
    the user: the reference's own model has a licence that a dependency must not carry.

    Raises PenstockError for a picture that is transparent everywhere.
    """
    rgba = torch.from_numpy(np.array(picture)).float() / 255
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    rows, columns = torch.nonzero(alpha[..., 0] > 0.5, as_tuple=True)
    if not len(rows):
        raise PenstockError("the picture is transparent everywhere; expected an object in front of the background.")
    composed = colour * alpha + (1 - alpha)
    crop = composed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = crop.shape[:2]
    side = max(height, width)
    side += 2 * round(MARGIN * side)
    square = torch.ones(side, side, 3)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = crop
    return square.permute(2, 0, 1)


class ImageEncoder(nn.Module):
    """The last hidden state of a frozen vision transformer (DINOv2), class token included.

    Raises PenstockError where the `vision` extra or the model's files are missing.
    """

    network: Any

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        try:
            from transformers import AutoModel
        except ImportError as missing:
            raise PenstockError("image conditions need the vision extra: pip install 'penstock[vision]'.") from missing
        try:
            # safetensors only: a pickled checkpoint could run code.
            self.network = AutoModel.from_pretrained(config.model, use_safetensors=True, local_files_only=True)
        except (OSError, ValueError) as absent:
            raise PenstockError(
                f"no image encoder at '{config.model}'. Give a folder with config.json and model.safetensors, or fetch "
                f"it once: huggingface-cli download {config.model}."
            ) from absent
        self.size = config.size
        self.requires_grad_(False).eval()

    @property
    def width(self) -> int:
        """Channels of each token."""
        return int(self.network.config.hidden_size)

    @torch.no_grad()
    def forward(self, pictures: Sequence[UInt8[np.ndarray, "height width 4"]]) -> Float[Tensor, "image token channel"]:
        """Tokens of each picture; 1 + (size / patch)^2 of them."""
        squares = [
            nn.functional.interpolate(
                frame_object(p)[None], size=(self.size, self.size), mode="bicubic", antialias=True, align_corners=False
            )
            for p in pictures
        ]
        pixels = torch.cat(squares).clamp(0, 1)
        pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        tokens: Tensor = self.network(pixel_values=pixels).last_hidden_state
        return tokens
