"""Random problems for the checks, and the bounds on float32 rounding that they are judged by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast.ops import AdamRows, Code

EPS = 2.0**-24  # half the distance from 1 to the next float32


class Shape(NamedTuple):
    """Rows, width, latents, latents per row."""

    B: int
    d: int
    n: int
    k: int

    def __str__(self) -> str:
        return f"B={self.B} d={self.d} n={self.n} k={self.k}"


# Odd sizes beside round ones, and the smallest of each.
SMALL = (Shape(1, 1, 1, 1), Shape(7, 33, 130, 5), Shape(5, 300, 64, 17))
FULL = (
    *SMALL,
    Shape(130, 640, 5000, 31),
    Shape(300, 1280, 16_384, 32),
    Shape(64, 1152, 40_960, 32),
    Shape(9, 16, 300_000, 8),
)


class Problem(NamedTuple):
    """Inputs of every op, on one device."""

    shape: Shape
    x: Tensor
    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_pre: Tensor
    code: Code
    grad: Tensor

    @property
    def encoder(self) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        return self.x, self.W_enc, self.b_enc, self.b_pre, self.shape.k

    def rows(self) -> AdamRows:
        """Fresh parameters and moments, which a step may change."""
        return AdamRows.start(*(t.clone() for t in (self.W_enc, self.W_dec, self.b_enc, self.b_pre)))


def problem(
    shape: Shape, device: torch.device | str, *, integers: bool = False, shared: bool = True, seed: int = 0
) -> Problem:
    """Gaussian data, or small integers, on which float32 arithmetic is exact and ties abound; one seed, any device.

    `shared`: every other row uses the same latents, so that some have many rows.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        if integers:
            return torch.randint(-2, 3, sizes, generator=generator).float()
        return torch.randn(sizes, generator=generator)

    B, d, n, k = shape
    # the largest k of random numbers: distinct latents, in random order
    indices = torch.rand(B, n, generator=generator).topk(k, 1).indices
    if shared:
        indices[::2] = torch.arange(k)
    values = draw(B, k).sort(1, descending=True).values
    scale = 1.0 if integers else d**-0.5
    W_dec = draw(n, d) if integers else torch.nn.functional.normalize(draw(n, d))
    tensors = draw(B, d), draw(n, d) * scale, W_dec, draw(n) * (1.0 if integers else 0.1), draw(d), values, indices
    x, W_enc, W_dec, b_enc, b_pre, values, indices = (t.to(device) for t in tensors)
    return Problem(shape, x, W_enc, W_dec, b_enc, b_pre, Code(values, indices), draw(B, d).to(device))


def dense64(code: Code, n: int) -> Tensor:
    """The code as a dense float64 matrix ``[B, n]``; repeated latents add up."""
    z = torch.zeros(code.values.shape[0], n, dtype=torch.float64, device=code.values.device)
    return z.scatter_add(1, code.indices, code.values.double())


def bound(terms: int, magnitudes: Tensor) -> float:
    """Bound on a float32 sum of `terms` products in any order, given the sum of their absolute values."""
    return (terms + 2) * EPS * magnitudes.max().item() if magnitudes.numel() else 0.0


def off(got: Tensor, want: Tensor) -> float:
    """Largest difference; a NaN on one side only counts as infinite."""
    if got.shape != want.shape:
        return float("inf")
    error = (got.double() - want.double()).abs().nan_to_num(nan=torch.inf)
    error = torch.where((got == want) | (got.isnan() & want.isnan()), 0.0, error)
    return error.max().item() if error.numel() else 0.0


def differing(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> float:
    """How many elements differ, NaN being equal to NaN."""
    count = 0
    for a, b in zip(got, want, strict=True):
        count += a.numel() if a.shape != b.shape else int(((a != b) & ~(a.isnan() & b.isnan())).sum())
    return float(count)
