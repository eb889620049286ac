"""sparse_residual by the kernel of sparse_decode.py; the squares of a row's tiles are added afterwards, in order."""

from torch import Tensor

from revelio_fast.ops.sparse_decode.triton import bag


def sparse_residual(values: Tensor, indices: Tensor, W_dec: Tensor, b_pre: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    residual, squares = bag(values, indices, W_dec, b_pre, x)
    return residual, squares.sum(0)
