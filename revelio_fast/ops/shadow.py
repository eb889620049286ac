"""`EncoderShadow`: a bfloat16 copy of W_enc with what bounds its rounding errors, kept fresh by the optimiser sweep."""

from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast.ops import checks

Shadow = tuple[Tensor | None, Tensor | None, Tensor | None]
NONE: Shadow = (None, None, None)


class EncoderShadow(NamedTuple):
    """What a GPU's `topk_encode` screens with instead of W_enc; `adam_unit_norm_step_` updates it in place.

    Attributes
    ----------
    weights : Tensor
        ``[n, d]`` bfloat16, W_enc rounded to nearest even.
    norms : Tensor
        ``[n]`` float32, Euclidean norm of each row of W_enc.
    residuals : Tensor
        ``[n]`` float32, norm of each row of ``W_enc - weights``.
    """

    weights: Tensor
    norms: Tensor
    residuals: Tensor

    @classmethod
    def of(cls, W_enc: Tensor) -> "EncoderShadow":
        """The shadow of `W_enc` ``[n, d]``."""
        n = W_enc.shape[0]
        shadow = cls(torch.empty_like(W_enc, dtype=torch.bfloat16), W_enc.new_empty(n), W_enc.new_empty(n))
        refresh_(W_enc, *shadow)
        return shadow


def refresh_(W_enc: Tensor, weights: Tensor | None, norms: Tensor | None, residuals: Tensor | None) -> None:
    """Make the tensors of a shadow those of `W_enc`, in place; without a shadow, nothing."""
    if weights is None or norms is None or residuals is None:
        return
    weights.copy_(W_enc)
    torch.linalg.vector_norm(W_enc, dim=1, out=norms)
    torch.linalg.vector_norm(W_enc - weights, dim=1, out=residuals)


def checked(shadow: EncoderShadow | None, n: int, d: int, device: torch.device) -> Shadow:
    """The three tensors of a shadow of an ``[n, d]`` encoder, or three times None."""
    if shadow is None:
        return NONE
    weights, norms, residuals = shadow
    checks.tensor("shadow.weights", weights, (n, d), torch.bfloat16)
    checks.tensor("shadow.norms", norms, (n,))
    checks.tensor("shadow.residuals", residuals, (n,))
    for name, value in zip(EncoderShadow._fields, shadow, strict=True):
        if not value.is_contiguous():
            raise ValueError(f"shadow.{name} must be contiguous, because it is updated in place: call .contiguous()")
        if value.device != device:
            raise ValueError(f"shadow.{name} is on {value.device} but W_enc is on {device}: make it from that W_enc")
    return weights, norms, residuals
