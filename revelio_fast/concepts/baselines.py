"""Features that need no diffusion model: raw pixels and VAE latents, as vectors for a probe or a k-SAE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def pixel_features(images: Iterable[Image], size: int = 32) -> Tensor:
    """Raw pixels as features.

    Parameters
    ----------
    images : iterable of PIL images
        Converted to RGB, short side scaled to `size` with antialias, centre-cropped, as for the models.
    size : int
        Side of the square.

    Returns
    -------
    Tensor
        ``[N, 3 size size]`` float32 between 0 and 1.
    """
    from PIL import Image as PILImage
    from PIL import ImageOps

    rows = []
    for image in images:
        square = ImageOps.fit(image.convert("RGB"), (size, size), method=PILImage.Resampling.BICUBIC)
        rows.append(torch.from_numpy(np.asarray(square, dtype=np.float32) / 255).permute(2, 0, 1).reshape(-1))
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
