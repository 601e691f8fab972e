"""Image conditions: framing by what must hold of a picture, the encoder by a small DINOv2 made here."""

import numpy as np
import pytest
import torch

from data.errors import PenstockError
from data.images import find_images, read_image
from modules.shape.image import ImageEncoderConfig, frame_object

transformers = pytest.importorskip("transformers", reason="needs penstock[vision]")


@pytest.fixture
def disc() -> np.ndarray:
    """A red disc of radius 20 px, off centre, on a transparent 100 x 140 picture."""
    rows, columns = np.mgrid[:100, :140]
    picture = np.zeros((100, 140, 4), np.uint8)
    picture[(rows - 40) ** 2 + (columns - 90) ** 2 <= 20**2] = (255, 0, 0, 255)
    return picture


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(folder, safe_serialization=True)
    return ImageEncoderConfig(model=str(folder), size=56).build()


def test_the_object_is_centred_on_white_with_its_margin(disc):
    square = frame_object(disc)
    assert square.shape == (3, 41 + 2 * 4, 41 + 2 * 4)
    assert torch.equal(square[:, 0, 0], torch.ones(3))
    assert torch.allclose(square[:, 24, 24], torch.tensor([1.0, 0.0, 0.0]))
    inked = torch.nonzero(square[1] < 0.5)
    assert torch.equal(inked.min(0).values, torch.tensor([4, 4]))
    assert torch.equal(inked.max(0).values, torch.tensor([44, 44]))


def test_framing_ignores_where_the_object_stands(disc):
    assert torch.equal(frame_object(disc), frame_object(np.roll(disc, (10, -30), axis=(0, 1))))


def test_an_empty_picture_is_refused(disc):
    with pytest.raises(PenstockError, match="transparent everywhere"):
        frame_object(np.zeros_like(disc))


def test_tokens_follow_the_published_preprocessing(encoder, disc):
    """Against the library's own processor on a picture that needs no resizing."""
    rng = np.random.default_rng(0)
    side = 56 - 2 * 5  # plus the margin of round(4.6) = 5 on each side: 56
    picture = np.full((side, side, 4), 255, np.uint8)
    picture[..., :3] = rng.integers(0, 255, (side, side, 3))
    padded = np.full((56, 56, 3), 255, np.uint8)
    padded[5:-5, 5:-5] = picture[..., :3]
    pixels = transformers.BitImageProcessor(
        do_resize=False, do_center_crop=False, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )(padded, return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = encoder.network(pixel_values=pixels).last_hidden_state
    tokens = encoder([picture])
    assert tokens.shape == (1, 1 + 4 * 4, encoder.width)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)


def test_a_missing_encoder_says_what_to_do(tmp_path):
    with pytest.raises(PenstockError, match=r"config\.json and model\.safetensors"):
        ImageEncoderConfig(model=str(tmp_path / "nowhere")).build()


def test_pictures_are_found_by_item_id(tmp_path, disc):
    from PIL import Image

    Image.fromarray(disc).save(tmp_path / "cow.png")
    assert find_images(tmp_path, ["cow"]) == {"cow": tmp_path / "cow.png"}
    np.testing.assert_array_equal(read_image(tmp_path / "cow.png"), disc)
    with pytest.raises(PenstockError, match="horse"):
        find_images(tmp_path, ["cow", "horse"])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(PenstockError, match="not a picture"):
        read_image(tmp_path / "text.png")
