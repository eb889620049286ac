"""Features that need no diffusion model: raw pixels and VAE latents, as vectors for a probe or a k-SAE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from revelio_fast.data.preprocess import image_to_tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def pixel_features(images: Iterable[Image], size: int = 32) -> Tensor:
    """Raw pixels as features, preprocessed as for the models: at a model's own size, the very pixels that it is given.

    Parameters
    ----------
    images : iterable of PIL images
        Any mode and size.
    size : int
        Side of the square.

    Returns
    -------
    Tensor
        ``[N, 3 size size]`` float32 between -1 and 1.
    """
    rows = [image_to_tensor(image, size).reshape(-1) for image in images]
    if not rows:
        raise ValueError("There are no images to take pixels from.")
    return torch.stack(rows)


def flat_features(maps: Tensor, max_features: int = 4096) -> Tensor:
    """Maps as vectors that keep position, averaged to a coarser grid where they are too long.

    Parameters
    ----------
    maps : Tensor
        ``[N, C, H, W]``: VAE latents, pixels, or feature maps.
    max_features : int
        Largest width of the result; at least C.

    Returns
    -------
    Tensor
        ``[N, C h w]`` float32.
    """
    n, channels, height, width = _maps(maps).shape
    if max_features < channels:
        raise ValueError(f"max_features must be at least the {channels} channels, got {max_features}.")
    shrink = min(1.0, (max_features / (channels * height * width)) ** 0.5)
    grid = (max(1, int(height * shrink)), max(1, int(width * shrink)))
    return F.adaptive_avg_pool2d(maps.float(), grid).reshape(n, -1)


def pooled_features(maps: Tensor) -> Tensor:
    """Spatial means ``[N, C]`` float32 of maps ``[N, C, H, W]``: what the paper pools features to."""
    return _maps(maps).float().mean((2, 3))


def _maps(maps: Tensor) -> Tensor:
    if maps.ndim != 4:
        raise ValueError(f"Maps must have shape [N, C, H, W], got {list(maps.shape)}.")
    return maps
