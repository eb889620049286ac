"""Specification of `sparse_backward` and of its two halves: one slot of every row at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from revelio_fast.ops import checks


def sparse_backward(
    x: Tensor, values: Tensor, indices: Tensor, grad_x_hat: Tensor, W_enc: Tensor, W_dec: Tensor, b_pre: Tensor,
    offsets: Tensor, rows: Tensor, slots: Tensor, relu: bool, need_dx: bool, grad_aux: Tensor | None, k_aux: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    main = values.shape[1] - k_aux
    dW_dec, dvalues = decode_backward(grad_x_hat, values[:, :main], indices[:, :main], W_dec)
    if grad_aux is not None:
        dW_aux, dvalues_aux = decode_backward(grad_aux, values[:, main:], indices[:, main:], W_dec)
        dW_dec, dvalues = dW_dec + dW_aux, torch.cat([dvalues, dvalues_aux], 1)
    dpre = dvalues * (values > 0) if relu else dvalues
    dW_enc, db_enc, db_pre, dx = encode_backward(x, dpre, indices, W_enc, b_pre, need_dx)
    return dW_dec, dW_enc, db_enc, grad_x_hat.sum(0) + db_pre, dvalues, dx


def decode_backward(grad_x_hat: Tensor, values: Tensor, indices: Tensor, W_dec: Tensor) -> tuple[Tensor, Tensor]:
    """``dW_dec [n, d]`` and ``dvalues [B, k]`` of `sparse_decode` for the gradient ``[B, d]`` of its result."""
    checks.indices_in_range(indices, W_dec.shape[0])
    dW_dec, dvalues = torch.zeros_like(W_dec), torch.empty_like(values)
    for slot in range(values.shape[1]):
        dW_dec.index_add_(0, indices[:, slot], values[:, slot, None] * grad_x_hat)
        dvalues[:, slot] = (W_dec[indices[:, slot]] * grad_x_hat).sum(1)
    return dW_dec, dvalues


def encode_backward(
    x: Tensor, grad_values: Tensor, indices: Tensor, W_enc: Tensor, b_pre: Tensor, need_dx: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``dW_enc [n, d]``, ``db_enc [n]``, ``db_pre [d]`` and ``dx`` (empty unless wanted) of `topk_encode`."""
    checks.indices_in_range(indices, W_enc.shape[0])
    dW_enc, centred = torch.zeros_like(W_enc), x - b_pre
    for slot in range(indices.shape[1]):
        dW_enc.index_add_(0, indices[:, slot], grad_values[:, slot, None] * centred)
    db_enc = W_enc.new_zeros(W_enc.shape[0]).index_add_(0, indices.reshape(-1), grad_values.reshape(-1))
    dx = x.new_empty(0)
    if need_dx:
        dx = F.embedding_bag(indices, W_enc, mode="sum", per_sample_weights=grad_values)
    return dW_enc, db_enc, -(db_enc @ W_enc), dx
