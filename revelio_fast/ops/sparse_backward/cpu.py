"""sparse_backward and its two halves by csrc/cpu/sparse_backward.cpp."""

import torch
from torch import Tensor

from revelio_fast.ops.cpu_runtime import addresses, dense, load, threads, unavailable
from revelio_fast.ops.invert_code.cpu import invert_code

__all__ = ["decode_backward", "encode_backward", "sparse_backward", "unavailable"]


def sparse_backward(
    x, values, indices, grad_x_hat, W_enc, W_dec, b_pre, offsets, rows, slots, relu, need_dx, grad_aux, k_aux
) -> tuple[Tensor, ...]:
    x, values, indices, grad, W_enc, W_dec, b_pre = dense(x, values, indices, grad_x_hat, W_enc, W_dec, b_pre)
    offsets, rows, slots = dense(offsets, rows, slots)
    grad_aux = None if grad_aux is None else grad_aux.contiguous()
    (B, k), (n, d) = values.shape, W_dec.shape
    dW_dec, dW_enc = torch.empty_like(W_dec), torch.empty_like(W_enc)
    db_enc, db_pre, dvalues = x.new_empty(n), x.new_empty(d), torch.empty_like(values)
    dx = torch.empty_like(x) if need_dx else None
    tensors = addresses(
        x=x, values=values, indices=indices, grad=grad, grad_aux=grad_aux, W_enc=W_enc, W_dec=W_dec, b_pre=b_pre,
        offsets=offsets, rows=rows, slots=slots, dW_dec=dW_dec, dW_enc=dW_enc, db_enc=db_enc, db_pre=db_pre,
        dvalues=dvalues, dx=dx,
    )  # fmt: skip
    load().sparse_backward(tensors, B, k, k_aux, d, n, relu, threads())
    return dW_dec, dW_enc, db_enc, db_pre, dvalues, x.new_empty(0) if dx is None else dx


def decode_backward(grad: Tensor, values: Tensor, indices: Tensor, W_dec: Tensor) -> tuple[Tensor, Tensor]:
    grad, values, indices, W_dec = dense(grad, values, indices, W_dec)
    (B, k), (n, d) = values.shape, W_dec.shape
    offsets, rows, slots = invert_code(indices, n)
    dW_dec, dvalues = torch.empty_like(W_dec), torch.empty_like(values)
    # x is only prefetched when there is no encoder gradient: any [B, d] array will do
    tensors = addresses(
        x=grad, values=values, indices=indices, grad=grad, W_dec=W_dec, offsets=offsets, rows=rows, slots=slots,
        dW_dec=dW_dec, dvalues=dvalues,
    )  # fmt: skip
    load().sparse_backward(tensors, B, k, 0, d, n, False, threads())
    return dW_dec, dvalues


def encode_backward(
    x: Tensor, grad_values: Tensor, indices: Tensor, W_enc: Tensor, b_pre: Tensor, need_dx: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, dpre, indices, W_enc, b_pre = dense(x, grad_values, indices, W_enc, b_pre)
    (B, k), (n, d) = dpre.shape, W_enc.shape
    offsets, rows, slots = invert_code(indices, n)
    dW_enc, db_enc, db_pre = torch.empty_like(W_enc), x.new_empty(n), x.new_empty(d)
    dx = torch.empty_like(x) if need_dx else None
    tensors = addresses(
        x=x, indices=indices, W_enc=W_enc, b_pre=b_pre, offsets=offsets, rows=rows, slots=slots, dpre_given=dpre,
        dW_enc=dW_enc, db_enc=db_enc, db_pre=db_pre, dx=dx,
    )  # fmt: skip
    load().sparse_backward(tensors, B, k, 0, d, n, False, threads())
    return dW_enc, db_enc, db_pre, x.new_empty(0) if dx is None else dx
