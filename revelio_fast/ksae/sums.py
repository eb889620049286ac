"""Sums in a fixed order: the same bits for any number of threads, which torch's own reductions do not promise."""

from __future__ import annotations

import torch
from torch import Tensor


def sum_rows(x: Tensor) -> Tensor:
    """Sum over the first dimension, by adding the second half of the rows to the first until one row is left.

    Only elementwise additions are used, whose results do not depend on how they are divided among threads. The error
    grows with the logarithm of the number of rows. Differentiable.

    Parameters
    ----------
    x : Tensor
        ``[r, ...]``, r >= 0.

    Returns
    -------
    Tensor
        ``[...]`` of the same dtype.
    """
    if not len(x):
        return x.new_zeros(x.shape[1:])
    while (count := len(x)) > 1:
        half = count // 2
        paired = x[:half] + x[half : 2 * half]
        x = torch.cat([paired, x[-1:]]) if count % 2 else paired
    return x[0]


def mean_rows(x: Tensor) -> Tensor:
    """Mean over the first dimension, which must not be empty; see `sum_rows`."""
    return sum_rows(x) / len(x)


def sum_all(x: Tensor) -> Tensor:
    """Sum of all elements, a scalar; see `sum_rows`."""
    return sum_rows(sum_rows(x) if x.dim() > 1 else x)


def squared_distance(x: Tensor, centre: Tensor) -> Tensor:
    """Sum over the rows of `x` ``[r, d]`` of their squared distance from `centre` ``[d]``, a scalar."""
    return sum_all((x - centre).square())
