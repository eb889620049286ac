"""From a PIL image to the model's input: RGB, short side resized with antialiasing, centre crop, [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def to_rgb(image: Image) -> Image:
    """RGB of any mode: transparency over white, 16-bit grey by its upper byte."""
    from PIL import Image as PilImage

    if image.mode.startswith("I;16"):
        image = PilImage.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = PilImage.alpha_composite(PilImage.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return image.convert("RGB")


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


def model_input(image: Image, size: int) -> np.ndarray:
    """`image_to_tensor` as a numpy array: a thread that decodes must not use torch (see `prefetch.py`)."""
    pixels = np.asarray(resize_and_crop(to_rgb(image), size), dtype=np.float32)
    return np.ascontiguousarray((pixels / 127.5 - 1.0).transpose(2, 0, 1))


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
    return torch.from_numpy(model_input(image, size))


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
