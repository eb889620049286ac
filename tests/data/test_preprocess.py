"""Preprocessing: size, range, antialiasing, and every image mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from revelio_fast.data import image_to_tensor
from tests.tiny import picture


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (64, 64), (301, 200)])
def test_every_mode_and_size(mode: str, size: tuple[int, int]) -> None:
    image = picture(1, size)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert("RGBA").convert("LA") if mode == "LA" else image.convert(mode)
    out = image_to_tensor(image, 32)
    assert (out.shape, out.dtype) == ((3, 32, 32), torch.float32)
    assert out.min() >= -1 and out.max() <= 1


def test_an_image_of_the_right_size_is_only_scaled() -> None:
    image = picture(2, (32, 32))
    expected = torch.from_numpy(np.asarray(image).astype(np.float32)).permute(2, 0, 1) / 255 * 2 - 1
    # Two roundings of numbers up to 2: less than 2^-22.
    torch.testing.assert_close(image_to_tensor(image, 32), expected, rtol=0, atol=2**-22)


def test_grey_16_bit_keeps_its_brightness() -> None:
    grey = np.full((32, 32), 40_000, dtype=np.uint16)
    out = image_to_tensor(Image.fromarray(grey), 32)
    assert torch.allclose(out, torch.tensor((40_000 >> 8) / 127.5 - 1))


def test_transparent_pixels_are_white() -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert torch.equal(image_to_tensor(image, 32), torch.ones(3, 32, 32))


def test_the_centre_is_kept() -> None:
    wide = Image.new("RGB", (96, 32))
    wide.paste((255, 255, 255), (32, 0, 64, 32))
    assert torch.equal(image_to_tensor(wide, 32), torch.ones(3, 32, 32))


def test_shrinking_averages() -> None:
    """A one-pixel chequerboard shrinks to grey; without antialiasing it would alias to stripes."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    out = image_to_tensor(Image.fromarray(board), 32)
    assert out[:, 2:-2, 2:-2].abs().max() < 0.02
