"""sparse_backward and its two halves by csrc/cpu/sparse_backward.cpp."""

from typing import Any

from torch import Tensor

from revelio_fast.ops.cpu_runtime import load, threads
from revelio_fast.ops.invert_code.cpu import invert_code
from revelio_fast.ops.sparse_backward import fields


def sparse_backward(**arguments: Any) -> tuple[Tensor, ...]:
    """Arguments by name as in reference.py."""
    given = fields.whole(**arguments)
    load().sparse_backward(**given, threads=threads())
    return fields.results(given, "dW_dec", "dW_enc", "db_enc", "db_pre", "dvalues", "dx")


def decode_backward(grad_x_hat: Tensor, values: Tensor, indices: Tensor, W_dec: Tensor) -> tuple[Tensor, ...]:
    given = fields.decoding(grad_x_hat, values, indices, W_dec, invert_code(indices, W_dec.shape[0]))
    # x is only prefetched when there is no encoder gradient: any [B, d] array will do
    load().sparse_backward(**given, x=grad_x_hat, threads=threads())
    return fields.results(given, "dW_dec", "dvalues")


def encode_backward(
    x: Tensor, grad_values: Tensor, indices: Tensor, W_enc: Tensor, b_pre: Tensor, need_dx: bool
) -> tuple[Tensor, ...]:
    inverse = invert_code(indices, W_enc.shape[0])
    given = fields.encoding(x, grad_values, indices, W_enc, b_pre, need_dx, inverse)
    load().sparse_backward(**given, threads=threads())
    return fields.results(given, "dW_enc", "db_enc", "db_pre", "dx")
