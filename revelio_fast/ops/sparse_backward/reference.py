"""Specification of `sparse_backward` and of its two halves: one slot of every row at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from revelio_fast.ops import checks


def sparse_backward(
    x, values, indices, grad_x_hat, W_enc, W_dec, b_pre, offsets, rows, slots, relu, need_dx, grad_aux, k_aux
) -> tuple[Tensor, ...]:
    main = values.shape[1] - k_aux
    dW_dec, dvalues = decode_backward(grad_x_hat, values[:, :main], indices[:, :main], W_dec)
    if k_aux:
        dW_aux, dvalues_aux = decode_backward(grad_aux, values[:, main:], indices[:, main:], W_dec)
        dW_dec, dvalues = dW_dec + dW_aux, torch.cat([dvalues, dvalues_aux], 1)
    dpre = dvalues * (values > 0) if relu else dvalues
    dW_enc, db_enc, db_pre, dx = encode_backward(x, dpre, indices, W_enc, b_pre, need_dx)
    return dW_dec, dW_enc, db_enc, grad_x_hat.sum(0) + db_pre, dvalues, dx


def decode_backward(grad: Tensor, values: Tensor, indices: Tensor, W_dec: Tensor) -> tuple[Tensor, Tensor]:
    checks.indices_in_range(indices, W_dec.shape[0])
    dW_dec, dvalues = torch.zeros_like(W_dec), torch.empty_like(values)
    for slot in range(values.shape[1]):
        dW_dec.index_add_(0, indices[:, slot], values[:, slot, None] * grad)
        dvalues[:, slot] = (W_dec[indices[:, slot]] * grad).sum(1)
    return dW_dec, dvalues


def encode_backward(
    x: Tensor, grad_values: Tensor, indices: Tensor, W_enc: Tensor, b_pre: Tensor, need_dx: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    checks.indices_in_range(indices, W_enc.shape[0])
    dW_enc, centred = torch.zeros_like(W_enc), x - b_pre
    for slot in range(indices.shape[1]):
        dW_enc.index_add_(0, indices[:, slot], grad_values[:, slot, None] * centred)
    db_enc = W_enc.new_zeros(W_enc.shape[0]).index_add_(0, indices.reshape(-1), grad_values.reshape(-1))
    dx = x.new_empty(0)
    if need_dx:
        dx = F.embedding_bag(indices, W_enc, mode="sum", per_sample_weights=grad_values)
    return dW_enc, db_enc, -(db_enc @ W_enc), dx
