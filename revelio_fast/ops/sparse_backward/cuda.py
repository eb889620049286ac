"""sparse_backward and its two halves by csrc/cuda/sparse_backward.cu."""

import torch
from torch import Tensor

from revelio_fast.ops import checks, cuda_runtime
from revelio_fast.ops.cuda_runtime import addresses, dense, unavailable
from revelio_fast.ops.invert_code.cuda import invert_code

__all__ = ["decode_backward", "encode_backward", "sparse_backward", "unavailable"]


def sparse_backward(
    x, values, indices, grad_x_hat, W_enc, W_dec, b_pre, offsets, rows, slots, relu, need_dx, grad_aux, k_aux
) -> tuple[Tensor, ...]:
    checks.indices_in_range(indices, W_dec.shape[0])
    x, values, indices, grad, W_enc, W_dec, b_pre = dense(x, values, indices, grad_x_hat, W_enc, W_dec, b_pre)
    offsets, rows, slots = dense(offsets, rows, slots)
    grad_aux = None if grad_aux is None else grad_aux.contiguous()
    dW_dec, dW_enc = torch.empty_like(W_dec), torch.empty_like(W_enc)
    db_enc, db_pre, dvalues = x.new_empty(W_enc.shape[0]), torch.empty_like(b_pre), torch.empty_like(values)
    dx = torch.empty_like(x) if need_dx else None
    tensors = addresses(
        x=x, values=values, indices=indices, grad=grad, grad_aux=grad_aux, W_enc=W_enc, W_dec=W_dec, b_pre=b_pre,
        offsets=offsets, rows=rows, slots=slots, dW_dec=dW_dec, dW_enc=dW_enc, db_enc=db_enc, db_pre=db_pre,
        dvalues=dvalues, dx=dx,
    )  # fmt: skip
    _run(tensors, indices, W_dec, relu, k_aux)
    return dW_dec, dW_enc, db_enc, db_pre, dvalues, x.new_empty(0) if dx is None else dx


def decode_backward(grad: Tensor, values: Tensor, indices: Tensor, W_dec: Tensor) -> tuple[Tensor, Tensor]:
    grad, values, indices, W_dec = dense(grad, values, indices, W_dec)
    offsets, rows, slots = invert_code(indices, W_dec.shape[0])
    dW_dec, dvalues = torch.empty_like(W_dec), torch.empty_like(values)
    tensors = addresses(
        values=values, indices=indices, grad=grad, W_dec=W_dec, offsets=offsets, rows=rows, slots=slots,
        dW_dec=dW_dec, dvalues=dvalues,
    )  # fmt: skip
    _run(tensors, indices, W_dec)
    return dW_dec, dvalues


def encode_backward(
    x: Tensor, grad_values: Tensor, indices: Tensor, W_enc: Tensor, b_pre: Tensor, need_dx: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, dpre, indices, W_enc, b_pre = dense(x, grad_values, indices, W_enc, b_pre)
    offsets, rows, slots = invert_code(indices, W_enc.shape[0])
    dW_enc, db_enc, db_pre = torch.empty_like(W_enc), x.new_empty(W_enc.shape[0]), torch.empty_like(b_pre)
    dx = torch.empty_like(x) if need_dx else None
    tensors = addresses(
        x=x, indices=indices, W_enc=W_enc, b_pre=b_pre, offsets=offsets, rows=rows, slots=slots, dpre_given=dpre,
        dW_enc=dW_enc, db_enc=db_enc, db_pre=db_pre, dx=dx,
    )  # fmt: skip
    _run(tensors, indices, W_enc)
    return dW_enc, db_enc, db_pre, x.new_empty(0) if dx is None else dx


def _run(tensors: dict[str, int], indices: Tensor, W: Tensor, relu: bool = False, k_aux: int = 0) -> None:
    (B, k), (n, d) = indices.shape, W.shape
    module = cuda_runtime.load()
    space = cuda_runtime.workspace(W, module.sparse_backward_workspace(B * k, n, d))
    module.sparse_backward(tensors, space.data_ptr(), B, k, k_aux, d, n, relu, *cuda_runtime.place(W))
