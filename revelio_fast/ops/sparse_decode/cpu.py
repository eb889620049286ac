"""sparse_decode by csrc/cpu/sparse_decode.cpp."""

from torch import Tensor

from revelio_fast.ops.cpu_runtime import dense, load, threads, unavailable

__all__ = ["sparse_decode", "unavailable"]


def sparse_decode(values: Tensor, indices: Tensor, W_dec: Tensor, b_pre: Tensor) -> Tensor:
    values, indices, W_dec, b_pre = dense(values, indices, W_dec, b_pre)
    (B, k), (n, d) = values.shape, W_dec.shape
    x_hat = W_dec.new_empty(B, d)
    pointers = [t.data_ptr() for t in (values, indices, W_dec, b_pre, x_hat)]
    load().sparse_decode(*pointers, B, k, d, n, threads())
    return x_hat
