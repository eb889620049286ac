"""sparse_residual by csrc/cpu/sparse_decode.cpp."""

from torch import Tensor

from revelio_fast.ops.cpu_runtime import dense, load, threads, unavailable

__all__ = ["sparse_residual", "unavailable"]


def sparse_residual(values: Tensor, indices: Tensor, W_dec: Tensor, b_pre: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    values, indices, W_dec, b_pre, x = dense(values, indices, W_dec, b_pre, x)
    (B, k), (n, d) = values.shape, W_dec.shape
    residual, squares = W_dec.new_empty(B, d), W_dec.new_empty(B)
    pointers = [t.data_ptr() for t in (values, indices, W_dec, b_pre, x, residual, squares)]
    load().sparse_residual(*pointers, B, k, d, n, threads())
    return residual, squares
