"""What is measured of a k-SAE in training: activity of the latents, held-out FVU, the authors' dense statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from revelio_fast import ops
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.row_sources import HeldOut
from revelio_fast.ksae.state import TrainingState
from revelio_fast.ksae.sums import mean_rows, squared_distance, sum_all
from revelio_fast.ops import Code


def note_activity(state: TrainingState, code: Code) -> Tensor:
    """Count rows since each latent was last active (a nonzero value in a code); return the batch's mean L0.

    Nothing is read back to the host.
    """
    active, since = code.values != 0, state.rows_since_active
    uses = torch.zeros_like(since).index_add_(0, code.indices.flatten(), active.flatten().to(since.dtype))
    since += code.values.shape[0]
    since.masked_fill_(uses > 0, 0)
    return active.sum().double() / max(1, code.values.shape[0])


@torch.no_grad()
def held_out_fvu(sae: KSparseAutoencoder, held_out: HeldOut) -> float:
    """Squared error over all held-out rows, divided by their squared distance from their mean."""
    device = sae.W_enc.device
    mean, error, total = held_out.mean.to(device), 0.0, 0.0
    for block in held_out.blocks():
        x = block.to(device)
        squares = ops.sparse_residual(sae.encode(x), sae.W_dec, sae.b_pre, x).squares
        error += sum_all(squares.double()).item()
        total += squared_distance(x.double(), mean.double()).item()
    return error / max(total, 1e-300)


@torch.no_grad()
def official_statistics(sae: KSparseAutoencoder, x: Tensor) -> dict[str, float]:
    """The authors' ``l0`` and ``dead_features``, of ReLU'd pre-activations *before* the top k: about n / 2 and 0.

    ``official_explained_variance`` is their uncentred mean over rows of ``1 - |x_hat - x|^2 / |x|^2``.
    """
    centred, active = x - sae.b_pre, torch.zeros(sae.n_latents, dtype=torch.int64, device=x.device)
    for rows in centred.split(max(1, 2**26 // sae.n_latents)):
        active += (torch.addmm(sae.b_enc, rows, sae.W_enc.T) > 0).sum(0)
    share = active.double() / x.shape[0]
    error, length = (sae.decode(sae.encode(x)) - x).square().sum(1), x.square().sum(1)
    return {
        "official_l0": share.sum().item(),
        "official_dead": float((share < 1e-6).sum()),
        "official_explained_variance": mean_rows(1 - error / length).item(),
    }
