"""From a PIL image to the model's input: upright, RGB, short side resized with antialiasing, centre crop, [-1, 1]."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from revelio_fast.data.identity import pixel_digest

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112
TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
GREY_BITS = (8, 12, 16)


class ModelInput(NamedTuple):
    """Pixels ``[3, size, size]`` float32 in [-1, 1], and the `pixel_digest` of the 8-bit square they are made from."""

    pixels: np.ndarray
    digest: bytes


def upright(image: Image) -> Image:
    """The image turned as its EXIF orientation says; itself if that says nothing."""
    from PIL import ImageOps

    turned = image.getexif().get(ORIENTATION, 1) in range(2, 9)
    return ImageOps.exif_transpose(image) if turned else image


def to_rgb(image: Image) -> Image:
    """An 8-bit RGB image of any other, upright.

    Transparent pixels are laid over white. Grey values of more than 8 bits are scaled to 0 .. 255:

    - 16- and 32-bit integers (modes ``I;16*`` and ``I``) from the smallest of the ranges 0 .. 2^8 - 1, 0 .. 2^12 - 1
      and 0 .. 2^16 - 1 that holds all values of the image: cameras store 12 bits in 16. Integers outside them are
      scaled from the smallest to the largest value of the image.
    - Floats (mode ``F``) between 0 and 1 from that range, others between 0 and 255 as they are, all others from the
      smallest to the largest value of the image.

    Where the range is not the full one of 16 bits, a warning says which was taken, since it is a guess from one image:
    images that are to be compared should be converted to 8 bits with a common range first.

    Raises
    ------
    ValueError
        If the values hold NaN or infinity.
    """
    from PIL import Image as PilImage

    image = upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return PilImage.fromarray(_grey_8_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in TRANSPARENT or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = PilImage.alpha_composite(PilImage.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return image.convert("RGB")


def _grey_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values scaled to uint8 as `to_rgb` says."""
    if not np.isfinite(values).all():
        raise ValueError("its grey values hold NaN or infinity")
    low, high = float(values.min()), float(values.max())
    whole = mode != "F"
    if whole and low >= 0 and high < 1 << GREY_BITS[-1]:
        bits = next(bits for bits in GREY_BITS if high < 1 << bits)
        if bits < GREY_BITS[-1]:
            _warn_of_range(mode, f"its values need {bits} bits only: 0 to {(1 << bits) - 1}")
        return (values >> (bits - 8)).astype(np.uint8)
    if not whole and low >= 0 and high <= 255:
        _warn_of_range(mode, "its values lie between 0 and 1" if high <= 1 else "its values lie between 0 and 255")
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    else:
        _warn_of_range(mode, "from its smallest to its largest value")
    return np.rint((values.astype(np.float64) - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)


def _warn_of_range(mode: str, taken: str) -> None:
    # The same words for the same case: Python shows them once, not for every image.
    warnings.warn(
        f"A grey image of mode {mode} was scaled to 8 bits by a range taken from the image itself ({taken}). Convert "
        "such images to 8 bits with a common range if their brightness is to be compared.",
        stacklevel=4,
    )


def resize_and_crop(image: Image, size: int) -> Image:
    """Short side to `size` (bilinear, antialiased, as torchvision's Resize does on PIL images), centre crop."""
    from PIL.Image import Resampling

    width, height = image.size
    short = min(width, height)
    if short != size:
        width, height = (
            (size, max(size, int(size * height / width)))
            if width <= height
            else (max(size, int(size * width / height)), size)
        )
        image = image.resize((width, height), Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def model_input(image: Image, size: int) -> ModelInput:
    """`image_to_tensor` as a numpy array, since a thread that decodes must not use torch (see `prefetch.py`)."""
    square = np.asarray(resize_and_crop(to_rgb(image), size))
    pixels = (square.astype(np.float32) / 127.5 - 1.0).transpose(2, 0, 1)
    return ModelInput(np.ascontiguousarray(pixels), pixel_digest(square))


def image_to_tensor(image: Image, size: int) -> Tensor:
    """The model's input for one image.

    Parameters
    ----------
    image : PIL.Image.Image
        Any mode and size.
    size : int
        Side of the result in pixels.

    Returns
    -------
    Tensor
        ``[3, size, size]`` float32 in [-1, 1].
    """
    return torch.from_numpy(model_input(image, size).pixels)


def as_pixels(images: Sequence[Image] | Tensor, size: int) -> Tensor:
    """PIL images preprocessed and stacked, or a tensor of preprocessed ones checked: ``[B, 3, size, size]``.

    Raises
    ------
    ValueError
        If there are no images, or a tensor has another shape or is not floating point.
    """
    if not isinstance(images, Tensor):
        if not len(images):
            raise ValueError("There are no images.")
        return torch.stack([image_to_tensor(image, size) for image in images])
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size) or not images.is_floating_point():
        raise ValueError(
            f"An image tensor must be floating point of shape [B, 3, {size}, {size}] with values in [-1, 1], "
            f"got {images.dtype} of shape {list(images.shape)}."
        )
    if not len(images):
        raise ValueError("There are no images.")
    return images
