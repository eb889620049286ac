"""sparse_decode by csrc/cpu/sparse_decode.cpp."""

from torch import Tensor

from revelio_fast.ops.cpu_runtime import load, threads


def sparse_decode(values: Tensor, indices: Tensor, W_dec: Tensor, b_pre: Tensor) -> Tensor:
    (B, k), (n, d) = values.shape, W_dec.shape
    x_hat = W_dec.new_empty(B, d)
    load().sparse_decode(
        values=values, indices=indices, W_dec=W_dec, b_pre=b_pre, out=x_hat, B=B, k=k, d=d, n=n, threads=threads()
    )
    return x_hat
