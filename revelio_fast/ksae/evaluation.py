"""What is measured of a k-SAE in training: activity of the latents, held-out FVU, the authors' dense statistics."""

from __future__ import annotations

import math

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
    """Squared error over all held-out rows, divided by their squared distance from their mean; NaN if they are equal.

    Rows count as equal where that distance is within the rounding of their mean to float32.
    """
    device = sae.W_enc.device
    mean, error, total, squares_of_x = held_out.mean.to(device), 0.0, 0.0, 0.0
    for block in held_out.blocks():
        x = block.to(device)
        squares = ops.sparse_residual(sae.encode(x), sae.W_dec, sae.b_pre, x).squares
        error += sum_all(squares.double()).item()
        total += squared_distance(x.double(), mean.double()).item()
        squares_of_x += sum_all(x.double().square()).item()
    return error / total if total > 2**-46 * squares_of_x else math.nan


@torch.no_grad()
def official_statistics(state: TrainingState, x: Tensor, batch_size: int) -> dict[str, float]:
    """The authors' statistics of the dense pre-activations, *before* the top k, for a batch that is logged.

    ``official_l0``: positive pre-activations per row, about n / 2. ``official_dead``: share of the latents whose
    pre-activation was not zero in less than a millionth of the rows so far, which is 0 but for broken weights; the
    authors count the rows of all steps, and this the rows of the logged ones, both as `batch_size` per step.
    ``official_explained_variance``: the uncentred mean over rows of ``1 - |x_hat - x|^2 / |x|^2``.
    """
    sae, active = state.sae, state.official_active
    assert active is not None, "count_official_activity() comes first"
    centred, positive = x - sae.b_pre, 0
    for rows in centred.split(max(1, 2**26 // sae.n_latents)):
        scores = torch.addmm(sae.b_enc, rows, sae.W_enc.T)
        positive += int((scores > 0).sum())
        active += (scores != 0).sum(0)
    share = active.double() / (batch_size * (len(state.history) + 1))
    error, length = (sae.decode(sae.encode(x)) - x).square().sum(1), x.square().sum(1)
    return {
        "official_l0": positive / x.shape[0],
        "official_dead": (share < 1e-6).double().mean().item(),
        "official_explained_variance": mean_rows(1 - error / length).item(),
    }
