"""Noise that belongs to an image: drawn from (seed, image id, timestep, sample), so batches and order do not matter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from revelio_fast import seeds


def image_noise(seed: int, image_ids: Sequence[int], timestep: int, sample: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise, one independent stream per image.

    Drawn on the CPU in float32 whatever the model's device and dtype, so both give the same noise.

    Parameters
    ----------
    seed : int
        Of the whole extraction.
    image_ids : sequence of int
    timestep : int
    sample : int
        Counts the draws that are averaged (DIFT's ensemble).
    shape : sequence of int
        Of one image's latents, ``[c, h, w]``.

    Returns
    -------
    Tensor
        ``[len(image_ids), c, h, w]`` float32.
    """
    out = torch.empty(len(image_ids), *shape)
    generator = torch.Generator()
    for row, image_id in zip(out, image_ids, strict=True):
        generator.manual_seed(seeds.derive(seed, "noise", image_id, timestep, sample))
        torch.randn(row.shape, generator=generator, out=row)
    return out
