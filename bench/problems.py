"""Random inputs shared by all benchmarks; never zeros, on which processors are faster."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast.gpu_check.problems import Shape
from revelio_fast.ops import Code


class Inputs(NamedTuple):
    """Features, weights, a code with distinct latents, and a gradient at x_hat."""

    x: Tensor
    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_pre: Tensor
    code: Code
    grad: Tensor


def inputs(shape: Shape) -> Inputs:
    """Seeded Gaussian data; decoder rows of unit norm, encoder rows equal to them as in a fresh k-SAE."""
    torch.manual_seed(0)
    B, d, n, k = shape
    W_dec = torch.nn.functional.normalize(torch.randn(n, d))
    indices = torch.stack([torch.randperm(n)[:k] for _ in range(B)])
    code = Code(torch.rand(B, k).sort(1, descending=True).values + 0.1, indices)
    grad = torch.randn(B, d) / B
    return Inputs(torch.randn(B, d), W_dec.clone(), W_dec, torch.zeros(n), torch.zeros(d), code, grad)


def dense_code(p: Inputs) -> Tensor:
    """The code as a dense ``[B, n]`` matrix, as the authors' code holds it."""
    return torch.zeros(p.x.shape[0], p.W_dec.shape[0]).scatter_(1, p.code.indices, p.code.values)
