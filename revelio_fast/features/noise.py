"""Noise that belongs to an image: drawn from (seed, the image's pixels, timestep, sample), and from nothing else.

The key of an image is the digest of the 8-bit RGB square that the model sees (`revelio_fast.data.identity`). A feature
therefore does not depend on the image's name, folder, place in a list, batch, or on how it was handed over: as a file,
as a PIL image or as a tensor. Two copies of a photo have the same features. A change of a single pixel, or of the
input's size, draws other noise; so may a JPEG decoder that rounds differently. Averaging over several draws
(`noise_samples`) makes features depend less on which noise it was.

The pixels are the key, not the bytes of the file: a PIL image or a tensor has no such bytes, and `extract` must give
what a store holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from revelio_fast import seeds


def image_noise(
    seed: int, digests: Sequence[bytes], timestep: int, sample: int, shape: Sequence[int], draw: int = 0
) -> Tensor:
    """Standard normal noise, one independent stream per image.

    Drawn on the CPU in float32 whatever the model's device and dtype, so both give the same noise.

    Parameters
    ----------
    seed : int
        Of the whole extraction.
    digests : sequence of bytes
        Of each image's pixels: `pixel_digest`.
    timestep : int
    sample : int
        Counts the draws that are averaged (DIFT's ensemble).
    shape : sequence of int
        Of one image's latents, ``[c, h, w]``.
    draw : int
        The number of the random crop or epoch; 0 is the whole image.

    Returns
    -------
    Tensor
        ``[len(digests), c, h, w]`` float32.
    """
    out = torch.empty(len(digests), *shape)
    generator = torch.Generator()
    for row, digest in zip(out, digests, strict=True):
        generator.manual_seed(seeds.derive(seed, "noise", int.from_bytes(digest, "big"), timestep, sample, draw))
        torch.randn(row.shape, generator=generator, out=row)
    return out
