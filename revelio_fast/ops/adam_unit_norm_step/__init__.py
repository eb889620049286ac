"""`adam_unit_norm_step_`: one optimiser step of the k-SAE in one sweep over its latents."""

from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast.ops import checks, dispatch
from revelio_fast.ops.adam_unit_norm_step import reference
from revelio_fast.ops.codes import Code, InverseCode
from revelio_fast.ops.invert_code import invert_code
from revelio_fast.ops.shadow import EncoderShadow, checked
from revelio_fast.ops.sparse_backward import check_backward


class AdamRows(NamedTuple):
    """The parameters of a k-SAE and their Adam moments, all float32 and contiguous.

    ``W_enc, W_dec, m_enc, v_enc, m_dec, v_dec``: ``[n, d]``; ``b_enc, m_b_enc, v_b_enc``: ``[n]``;
    ``b_pre, m_b_pre, v_b_pre``: ``[d]``. `m` is Adam's first moment (exp_avg), `v` the second (exp_avg_sq).
    """

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_pre: Tensor
    m_enc: Tensor
    v_enc: Tensor
    m_dec: Tensor
    v_dec: Tensor
    m_b_enc: Tensor
    v_b_enc: Tensor
    m_b_pre: Tensor
    v_b_pre: Tensor

    @classmethod
    def start(cls, W_enc: Tensor, W_dec: Tensor, b_enc: Tensor, b_pre: Tensor) -> "AdamRows":
        """Parameters as given (shared, not copied) with zero moments."""
        zeros = [torch.zeros_like(t) for t in (W_enc, W_enc, W_dec, W_dec, b_enc, b_enc, b_pre, b_pre)]
        return cls(W_enc, W_dec, b_enc, b_pre, *zeros)


def adam_unit_norm_step_(
    rows: AdamRows,
    x: Tensor,
    code: Code,
    grad_x_hat: Tensor,
    *,
    step: int,
    lr: float,
    inverse: InverseCode | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    relu: bool = False,
    project: bool = True,
    unit_norm: bool = True,
    grad_aux: Tensor | None = None,
    k_aux: int = 0,
    shadow: EncoderShadow | None = None,
    scalars: Tensor | None = None,
    skip_mask: Tensor | None = None,
) -> None:
    """Update every parameter and moment in place, as `sparse_backward` followed by `torch.optim.Adam` would.

    The part of the decoder gradient along each decoder row is removed before the step, and the row is scaled to unit
    norm after it (Revelio, Appendix F: decoder rows of unit norm after each update).

    Parameters
    ----------
    rows : AdamRows
        Changed in place.
    x : Tensor
        ``[B, d]`` float32 features.
    code : Code
        ``[B, k]`` as `topk_encode` returned it for `x`.
    grad_x_hat : Tensor
        ``[B, d]`` float32 gradient of the loss at the reconstruction.
    step : int
        Number of this step, from 1 (Adam's bias correction).
    lr : float
        Learning rate of this step.
    inverse : InverseCode, optional
        ``invert_code(code, n)``, where it is already there.
    beta1, beta2, eps : float
        Adam's constants.
    relu : bool
        The code was made with ``relu=True``.
    project, unit_norm : bool
        Remove the gradient along each decoder row; normalise the row after the step.
    grad_aux : Tensor, optional
        ``[B, d]`` gradient at the auxiliary reconstruction made from the last `k_aux` slots.
    k_aux : int
        Number of auxiliary slots.
    shadow : EncoderShadow, optional
        That of ``rows.W_enc``; brought up to date in place.
    scalars : Tensor, optional
        ``[2]`` float32 on the device of `rows`, the numbers of `adam_scalars`. They are read when the kernel runs and
        take the place of `step` and `lr`, which a captured CUDA graph would repeat for ever.
    skip_mask : Tensor, optional
        ``[n]`` uint8 kept from step to step, zeros at first. A latent that has had no entry yet (all its moments are
        zero) and whose decoder row unit norm leaves as it is would not change by a single bit: it is marked with 1 and
        skipped until it has an entry, by backends that skip; others clear the marks of latents with entries. The result
        is the same bits with and without. Fill it with zeros after changing `rows` otherwise, or `unit_norm`.

    Raises
    ------
    ValueError
        For a wrong shape, dtype, device, step or learning rate.
    """
    check_backward(x, code, grad_x_hat, rows.W_enc, rows.W_dec, rows.b_pre, grad_aux, k_aux)
    n, d = rows.W_enc.shape
    shapes = {"enc": (n, d), "dec": (n, d), "b_enc": (n,), "b_pre": (d,)}
    checks.tensor("rows.b_enc", rows.b_enc, (n,))
    for name, shape in shapes.items():
        for moment in ("m", "v"):
            checks.tensor(f"rows.{moment}_{name}", getattr(rows, f"{moment}_{name}"), shape)
    for name, value in zip(AdamRows._fields, rows, strict=True):
        if not value.is_contiguous():
            raise ValueError(f"rows.{name} must be contiguous, because it is updated in place: call .contiguous()")
    checks.same_device(x=x, **rows._asdict())
    checks.in_range("step", step, 1, 2**62, "the largest step")
    if not 0 <= lr < float("inf"):
        raise ValueError(f"lr must be a finite number of at least 0, got {lr}")
    inverse = inverse if inverse is not None else invert_code(code, n)
    checks.inverse(*inverse, n, code.indices.numel())
    if scalars is not None:
        checks.tensor("scalars", scalars, (2,))
        checks.same_device(x=x, scalars=scalars)
    if skip_mask is not None:
        checks.tensor("skip_mask", skip_mask, (n,), torch.uint8)
        checks.same_device(x=x, skip_mask=skip_mask)
        if not skip_mask.is_contiguous():
            raise ValueError("skip_mask must be contiguous, because it is updated in place: call .contiguous()")
    _adam_unit_norm_step_(
        *rows, x, code.values, code.indices, grad_x_hat, *inverse,
        step, lr, beta1, beta2, eps, relu, project, unit_norm, grad_aux, k_aux,
        *checked(shadow, n, d, rows.W_enc.device), scalars, skip_mask,
    )  # fmt: skip


_adam_unit_norm_step_ = dispatch.custom_op(
    reference.adam_unit_norm_step_,
    cuda="cuda",
    mutates_args=(*AdamRows._fields, "shadow_weights", "shadow_norms", "shadow_residuals", "skip_mask"),
)


@_adam_unit_norm_step_.register_fake
def _(*arguments):
    return None
