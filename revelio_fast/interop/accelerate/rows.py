"""Parameters of other libraries as rows of latents, without a copy: re-strided in place, and put back."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def as_rows(parameter: nn.Parameter, latents_dim: int) -> Tensor:
    """A view of the parameter as ``[n, d]`` contiguous rows; one that lies otherwise is laid out anew."""
    rows = parameter if latents_dim == 0 else parameter.t()
    if not rows.is_contiguous():
        lay_out(parameter, _strides(parameter, latents_dim))
        rows = parameter if latents_dim == 0 else parameter.t()
    return rows


def lay_out(parameter: nn.Parameter, strides: tuple[int, ...]) -> None:
    """Give a parameter (and its gradient) other strides; it stays the same object with the same elements."""
    parameter.data = laid_out(parameter.data, strides)
    if parameter.grad is not None:
        parameter.grad = laid_out(parameter.grad, strides)


def laid_out(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The tensor itself where it has these strides, or a copy that has them."""
    if tensor.stride() == strides:
        return tensor
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _strides(parameter: Tensor, latents_dim: int) -> tuple[int, ...]:
    rows, columns = parameter.shape
    return (columns, 1) if latents_dim == 0 else (1, rows)
