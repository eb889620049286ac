"""Specification of `sparse_residual`: the reconstruction minus the input, and the squares of each row added up."""

from torch import Tensor

from revelio_fast.ops.sparse_decode.reference import sparse_decode


def sparse_residual(values: Tensor, indices: Tensor, W_dec: Tensor, b_pre: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    residual = sparse_decode(values, indices, W_dec, b_pre) - x
    return residual, residual.square().sum(1)
