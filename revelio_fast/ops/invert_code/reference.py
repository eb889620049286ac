"""Specification of `invert_code`: a stable sort of the entries by latent."""

import torch
from torch import Tensor

from revelio_fast.ops import checks


def invert_code(indices: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    checks.indices_in_range(indices, n)
    latents, entries = indices.reshape(-1).sort(stable=True)
    offsets = torch.searchsorted(latents, torch.arange(n + 1, device=indices.device))
    k = indices.shape[1]
    return offsets, entries // k, entries % k
