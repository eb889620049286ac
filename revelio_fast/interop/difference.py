"""`difference`: how far two autoencoders are apart on random rows, which is how a conversion is checked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ops import Code

SEED = 20_251
MIXED = 8


class Difference(NamedTuple):
    """What `difference` finds.

    Attributes
    ----------
    rows : int
    active : float
        Latents of a nonzero value in a row of the first autoencoder, on average.
    other_latents : int
        Rows in which the two have different ones.
    codes, reconstructions : float
        Largest difference of a value, over the largest magnitude of the first autoencoder's.
    """

    rows: int
    active: float
    other_latents: int
    codes: float
    reconstructions: float


@torch.no_grad()
def difference(a: KSparseAutoencoder, b: KSparseAutoencoder, rows: int = 256) -> Difference:
    """Encode and decode the same random rows with both, in blocks: each row is noise on a sum of `a`'s decoder rows."""
    generator = torch.Generator().manual_seed(SEED)
    active, others, codes, reconstructions = 0, 0, [0.0], [0.0]
    largest_z, largest_x = 1e-30, 1e-30
    for count in [32] * (rows // 32) + [rows % 32] * (rows % 32 > 0):
        chosen = torch.randint(a.n_latents, (count, MIXED), generator=generator)
        x = a.W_dec.cpu()[chosen].sum(1) + a.b_pre.cpu() + torch.randn(count, a.d_in, generator=generator)
        code_a, code_b = a.encode(x), b.encode(x)
        z_a, z_b = _dense(code_a, a.n_latents), _dense(code_b, b.n_latents)
        x_a, x_b = a.decode(code_a, x), b.decode(code_b, x)
        active += int((z_a != 0).sum())
        others += int(((z_a != 0) != (z_b != 0)).any(1).sum())
        codes.append((z_a - z_b).abs().max().item())
        reconstructions.append((x_a - x_b).abs().max().item())
        largest_z, largest_x = max(largest_z, z_a.abs().max().item()), max(largest_x, x_a.abs().max().item())
    return Difference(rows, active / rows, others, max(codes) / largest_z, max(reconstructions) / largest_x)


def _dense(code: Code, n: int) -> Tensor:
    return torch.zeros(code.values.shape[0], n).scatter_add_(1, code.indices, code.values)
