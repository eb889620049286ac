"""Specification of `topk_encode`: dense scores in blocks of rows, then an exact choice with a fixed order of ties."""

import torch
from torch import Tensor

SCORES_PER_BLOCK = 2**26  # 256 MB of float32


def topk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor, k: int, relu: bool, precision: str,
    shadow_weights: Tensor | None, shadow_norms: Tensor | None, shadow_residuals: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    centred = x - b_pre
    if precision == "bf16":
        centred, W_enc = centred.bfloat16().float(), W_enc.bfloat16().float()
    rows = max(1, SCORES_PER_BLOCK // W_enc.shape[0])
    values, indices = x.new_empty(x.shape[0], k), x.new_empty(x.shape[0], k, dtype=torch.int64)
    for start in range(0, x.shape[0], rows):
        block = slice(start, start + rows)
        values[block], indices[block] = exact_topk(torch.addmm(b_enc, centred[block], W_enc.T), k)
    return (values.clamp(min=0) if relu else values), indices


def exact_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, largest first, NaN above all, the lower column first among equals."""
    values, indices = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    # torch.topk picks any of the columns tied with the k-th; only those rows need a stable sort of everything.
    unclear = values.isnan().any(1)
    if values.shape[1] > k:
        unclear |= values[:, k - 1] == values[:, k]
    values, indices = values[:, :k], indices[:, :k]
    by_column = indices.argsort(dim=1)
    values, indices = values.gather(1, by_column), indices.gather(1, by_column)
    values, order = values.sort(dim=1, descending=True, stable=True)
    indices = indices.gather(1, order)
    for row in unclear.nonzero().flatten():
        ranked = scores[row].sort(descending=True, stable=True)
        values[row], indices[row] = ranked.values[:k], ranked.indices[:k]
    return values, indices
