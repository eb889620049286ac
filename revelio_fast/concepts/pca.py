"""`pca_maps`: the first three principal components of feature maps as colours (Revelio, Figs. 10 to 12)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pca_maps(maps: Tensor, *, joint: bool = False, clip: float = 0.01) -> Tensor:
    """Colour each position by the first three principal components of its feature.

    Parameters
    ----------
    maps : Tensor
        ``[N, C, H, W]`` feature maps, C >= 3.
    joint : bool
        Fit the components on all images together, so that colours can be compared between them; else per image.
    clip : float
        Share of positions cut off at either end before scaling to [0, 1], so that outliers do not take the range.

    Returns
    -------
    Tensor
        ``[N, 3, H, W]`` float32 between 0 and 1. A component's sign is set so that its largest weight is positive.

    Raises
    ------
    ValueError
        For a wrong shape, fewer than three channels, or values that are not finite.
    """
    if maps.ndim != 4 or maps.shape[1] < 3:
        raise ValueError(f"Maps must have shape [N, C, H, W] with C >= 3, got {list(maps.shape)}.")
    if not maps.isfinite().all():
        raise ValueError("The maps hold NaN or infinity: look at the images they come from.")
    groups = [maps] if joint else maps.split(1)
    return torch.cat([_colours(group.float(), clip) for group in groups])


def _colours(maps: Tensor, clip: float) -> Tensor:
    n, channels, height, width = maps.shape
    rows = maps.permute(0, 2, 3, 1).reshape(-1, channels).double()
    rows = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    components = vectors[:, -3:].flip(1)
    strongest = components.gather(0, components.abs().argmax(0, keepdim=True))
    projected = rows @ (components * strongest.sign())
    low, high = torch.from_numpy(np.quantile(projected.numpy(force=True), [clip, 1 - clip], axis=0)).to(maps.device)
    scaled = ((projected - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return scaled.float().reshape(n, height, width, 3).permute(0, 3, 1, 2)
