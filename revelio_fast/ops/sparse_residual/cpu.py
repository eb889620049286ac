"""sparse_residual by csrc/cpu/sparse_decode.cpp."""

from torch import Tensor

from revelio_fast.ops.cpu_runtime import load, threads


def sparse_residual(values: Tensor, indices: Tensor, W_dec: Tensor, b_pre: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    (B, k), (n, d) = values.shape, W_dec.shape
    residual, squares = W_dec.new_empty(B, d), W_dec.new_empty(B)
    load().sparse_decode(
        values=values, indices=indices, W_dec=W_dec, b_pre=b_pre, x=x, out=residual, squares=squares,
        B=B, k=k, d=d, n=n, threads=threads(),
    )  # fmt: skip
    return residual, squares
