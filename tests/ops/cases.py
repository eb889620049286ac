"""Random problems for the op tests, and what they should give in float64."""

from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast.ops import Code

# (B, d, n, k): odd sizes beside round ones, and the smallest of each
SHAPES = [(1, 1, 1, 1), (3, 5, 7, 7), (7, 33, 130, 5), (2, 17, 64, 1), (64, 96, 1024, 32), (5, 640, 300, 17)]


class Problem(NamedTuple):
    x: Tensor
    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_pre: Tensor
    k: int

    @property
    def encoder(self):
        return self.x, self.W_enc, self.b_enc, self.b_pre, self.k


def problem(B: int, d: int, n: int, k: int, *, integers: bool = False) -> Problem:
    """Gaussian data, or small integers, on which float32 arithmetic is exact and ties abound."""
    if integers:
        draw = lambda *shape: torch.randint(-2, 3, shape).float()  # noqa: E731
        return Problem(draw(B, d), draw(n, d), draw(n, d), draw(n), draw(d), k)
    W_dec = torch.nn.functional.normalize(torch.randn(n, d))
    return Problem(torch.randn(B, d), torch.randn(n, d) / d**0.5, W_dec, 0.1 * torch.randn(n), torch.randn(d), k)


def random_code(B: int, n: int, k: int) -> Code:
    """Distinct latents in every row, values of both signs, the popular latents shared by many rows."""
    indices = torch.stack([torch.randperm(n)[:k] for _ in range(B)]) if B else torch.empty(0, k, dtype=torch.int64)
    return Code(torch.randn(B, k).sort(1, descending=True).values, indices)


def scores64(p: Problem) -> Tensor:
    """All pre-activations in float64."""
    return (p.x.double() - p.b_pre.double()) @ p.W_enc.double().T + p.b_enc.double()


def dense64(code: Code, n: int) -> Tensor:
    """The code as a dense float64 matrix [B, n]; repeated latents add up."""
    z = torch.zeros(code.values.shape[0], n, dtype=torch.float64)
    return z.scatter_add(1, code.indices, code.values.double())


def dot_error(a: Tensor, b: Tensor, length: int) -> float:
    """Bound on the float32 rounding error of dot products of `length` terms: length * eps * sum |a||b|, any order."""
    terms = (a.double().abs().amax() * b.double().abs().amax()).item() if a.numel() and b.numel() else 0.0
    return (length + 2) * 2**-24 * length * terms + 1e-30


def assert_close(name: str, got: Tensor, want: Tensor, atol: float) -> None:
    """Fail with the tensor's name and its largest error."""
    error = (got.double() - want.double()).abs().max().item() if want.numel() else 0.0
    assert got.shape == want.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    assert error <= atol, f"{name}: largest error {error:.3g} > {atol:.3g}"
