"""A forward pass on the ops whose gradients reach the parameters of another library's model."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from revelio_fast import ops
from revelio_fast.ops.sparse_backward import encode_backward


class Encoder(NamedTuple):
    """What a code is made from.

    Attributes
    ----------
    W_enc : Tensor
        ``[n, d]``, one row per latent.
    b_enc : Tensor
        ``[n]``.
    b_pre : Tensor
        ``[d]``, subtracted from every row.
    relu : bool
        Clamp the selected scores at zero.
    precision : str
        That of `ops.topk_encode`.
    scale : Tensor or None
        ``[n]`` positive factors of the scores by which latents are selected.
    """

    W_enc: Tensor
    b_enc: Tensor
    b_pre: Tensor
    relu: bool
    precision: str
    scale: Tensor | None = None

    def encode(self, x: Tensor, k: int) -> ops.Code:
        """The code of rows ``[B, d]``: scores without the scale, largest first (by the scaled score)."""
        if self.scale is None:
            return ops.topk_encode(x, self.W_enc, self.b_enc, self.b_pre, k, relu=self.relu, precision=self.precision)
        return self.encode_among(x, k, None)

    def encode_among(self, x: Tensor, k: int, latents: Tensor | None) -> ops.Code:
        """The same from the listed latents alone, or from all of them."""
        with torch.no_grad():
            W_enc, b_enc, scale = self.W_enc.detach(), self.b_enc.detach(), self.scale
            if latents is not None:
                W_enc, b_enc = W_enc[latents], b_enc[latents]
                scale = None if scale is None else scale[latents]
            if scale is not None:
                W_enc, b_enc = W_enc * scale[:, None], b_enc * scale
            values, indices = ops.topk_encode(x, W_enc, b_enc, self.b_pre, k, relu=self.relu, precision=self.precision)
            if scale is not None:
                values = values / scale[indices]
            if latents is not None:
                indices = latents[indices]
        scores = _Scores.apply(x, self.W_enc, self.b_enc, self.b_pre, values, indices, self.relu)
        return ops.Code(scores, indices)


class _Scores(torch.autograd.Function):
    """Values of a code that is already known, with the gradients of `ops.topk_encode`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor, values: Tensor, indices: Tensor, relu: bool
    ) -> Tensor:
        ctx.save_for_backward(x, W_enc, b_pre, values, indices)
        ctx.relu = relu
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, W_enc, b_pre, values, indices = ctx.saved_tensors
        if ctx.relu:
            grad = grad * (values > 0)
        need_dx = ctx.needs_input_grad[0]
        dW_enc, db_enc, db_pre, dx = encode_backward(x, grad.contiguous(), indices, W_enc, b_pre, need_dx)
        return dx if need_dx else None, dW_enc, db_enc, db_pre, None, None, None


@torch.no_grad()
def unit_rows_(W: Tensor, eps: float) -> None:
    """Divide each row of ``[n, d]`` weights by its norm plus `eps`, a few rows at a time: they stay in the cache."""
    for rows in W.data.split(_few_rows(W)):
        rows /= rows.norm(dim=1, keepdim=True) + eps


@torch.no_grad()
def project_rows_(grad: Tensor, W: Tensor) -> None:
    """Remove from each row of ``[n, d]`` gradients the part along the same row of W, taken as of unit norm."""
    few = _few_rows(W)
    for grads, rows in zip(grad.split(few), W.data.split(few), strict=True):
        grads -= (grads * rows).sum(1, keepdim=True) * rows


def _few_rows(W: Tensor) -> int:
    """As many as fill about a megabyte on a CPU; all on a GPU, where each call costs a launch."""
    return max(1, 2**18 // W.shape[1]) if W.device.type == "cpu" else max(1, W.shape[0])
