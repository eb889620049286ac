"""The rules that `ops.topk_encode` does not have: codes by threshold, by the whole batch, or by magnitude.

Plain PyTorch, in blocks of rows, so that no more than `BLOCK` pre-activations exist at once. The gradient of the values
is the op's own (`encode_backward`), whatever rule chose them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from revelio_fast.ops import Code
from revelio_fast.ops.sparse_backward import encode_backward

BLOCK = 2**24


def select(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor, rule: str, k: float | None, threshold: Tensor | None
) -> Code:
    """Code of features by the rule "threshold", "batch_topk" or "abs_topk" (see `Semantics`).

    Differentiable in `x`, `W_enc`, `b_enc` and `b_pre`; the choice of latents is treated as constant.

    Parameters
    ----------
    x : Tensor
        ``[B, d]`` float32 features.
    W_enc, b_enc, b_pre : Tensor
        ``[n, d]``, ``[n]``, ``[d]`` float32.
    rule : str
    k : float or None
        Latents of a row; with "batch_topk" on average, where ``floor(k B)`` are kept.
    threshold : Tensor or None
        ``[n]`` float32: "threshold" keeps what is positive and above it.

    Returns
    -------
    Code
        ``[B, w]`` with ``w`` the largest number of active latents of any row, at least 1; largest first (in magnitude
        for "abs_topk"). Rows with fewer are filled up with other latents of value 0.
    """
    with torch.no_grad():
        blocks = _pre_activations(x, W_enc, b_enc, b_pre)
        if rule == "abs_topk":
            assert k is not None, "a top-k rule without k"
            code = _by_magnitude(blocks, int(k), x)
        elif rule == "batch_topk":
            assert k is not None, "a top-k rule without k"
            code = _pack(*_by_batch(blocks, int(k * x.shape[0]), W_enc.shape[0]), x.shape[0], W_enc.shape[0])
        else:
            assert threshold is not None, "a threshold rule without thresholds"
            code = _pack(*_above(blocks, threshold, x), x.shape[0], W_enc.shape[0])
    values = _Chosen.apply(x, W_enc, b_enc, b_pre, code.values, code.indices, rule != "abs_topk")
    return Code(values, code.indices)


def _pre_activations(x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor) -> Iterator[tuple[int, Tensor]]:
    """First row and pre-activations of one block of rows after another."""
    rows = max(1, BLOCK // W_enc.shape[0])
    for start in range(0, x.shape[0], rows):
        yield start, torch.addmm(b_enc, x[start : start + rows] - b_pre, W_enc.T)


def _by_magnitude(blocks: Iterator[tuple[int, Tensor]], k: int, x: Tensor) -> Code:
    values, indices = [x.new_empty(0, k)], [torch.empty(0, k, dtype=torch.int64, device=x.device)]
    for _, h in blocks:
        chosen = h.abs().topk(k, dim=1).indices
        indices.append(chosen)
        values.append(h.gather(1, chosen))
    return Code(torch.cat(values), torch.cat(indices))


def _above(blocks: Iterator[tuple[int, Tensor]], threshold: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, latents and values of what is positive and above the thresholds; by row, largest first."""
    whole = torch.empty(0, dtype=torch.int64, device=x.device)
    found = [(whole, whole, x.new_empty(0))]
    for start, h in blocks:
        rows, latents = ((h > threshold) & (h > 0)).nonzero(as_tuple=True)
        values = h[rows, latents]
        order = _by_row(rows, values)
        found.append((rows[order] + start, latents[order], values[order]))
    rows, latents, values = (torch.cat(part) for part in zip(*found, strict=True))
    return rows, latents, values


def _by_batch(blocks: Iterator[tuple[int, Tensor]], kept: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same of the `kept` largest positive pre-activations of all rows; among equals the earlier row and latent."""
    places: Tensor | None = None
    values: Tensor | None = None
    for start, h in blocks:
        flat = h.flatten()
        mask = flat > 0
        if flat.numel() > kept > 0:
            mask &= flat >= flat.topk(kept).values[-1]
        new = mask.nonzero().squeeze(1)
        joined = flat[new] if values is None else torch.cat([values, flat[new]])
        where = new + start * n if places is None else torch.cat([places, new + start * n])
        values, order = joined.sort(descending=True, stable=True)
        values, places = values[:kept], where[order][:kept]
    if places is None or values is None:
        raise ValueError("batch_topk needs at least one row of features, got none")
    rows, latents = places // n, places % n
    order = rows.argsort(stable=True)
    return rows[order], latents[order], values[order]


def _by_row(rows: Tensor, values: Tensor) -> Tensor:
    """The order that sorts entries by row, then by value, largest first; equal ones stay as they are."""
    order = values.argsort(descending=True, stable=True)
    return order[rows[order].argsort(stable=True)]


def _pack(rows: Tensor, latents: Tensor, values: Tensor, B: int, n: int) -> Code:
    """Entries, sorted by row, as a code whose free slots hold the lowest unused latents with value 0."""
    counts = torch.bincount(rows, minlength=B)
    width = max(1, int(counts.max())) if B else 1
    slots = torch.arange(rows.numel(), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    reach = min(n, 2 * width)  # among so many latents there are at least `width - count` unused ones
    used = torch.zeros(B, reach, dtype=torch.bool, device=rows.device)
    low = latents < reach
    used[rows[low], latents[low]] = True
    unused = used.to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    free = torch.arange(width, device=rows.device) - counts[:, None]
    indices = unused.gather(1, free.clamp_min(0))
    packed = values.new_zeros(B, width)
    indices[rows, slots], packed[rows, slots] = latents, values
    return Code(packed, indices)


class _Chosen(torch.autograd.Function):
    """Gives chosen values the gradient of ``W_enc[i] (x - b_pre) + b_enc[i]``, zero where a ReLU clamped."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor, values: Tensor, indices: Tensor, relu: bool
    ) -> Tensor:
        ctx.save_for_backward(x, W_enc, b_pre, values, indices)
        ctx.relu = relu
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc, b_pre, values, indices = ctx.saved_tensors
        grad = grads[0] * (values > 0) if ctx.relu else grads[0]
        need_dx = ctx.needs_input_grad[0]
        dW_enc, db_enc, db_pre, dx = encode_backward(x, grad.contiguous(), indices, W_enc, b_pre, need_dx)
        return dx if need_dx else None, dW_enc, db_enc, db_pre, None, None, None
