"""Specification of `adam_unit_norm_step_`: all gradients, projection, torch.optim.Adam's arithmetic, unit norm."""

from torch import Tensor

from revelio_fast.ops import shadow
from revelio_fast.ops.sparse_backward.reference import sparse_backward


def adam_unit_norm_step_(
    W_enc: Tensor, W_dec: Tensor, b_enc: Tensor, b_pre: Tensor, m_enc: Tensor, v_enc: Tensor, m_dec: Tensor,
    v_dec: Tensor, m_b_enc: Tensor, v_b_enc: Tensor, m_b_pre: Tensor, v_b_pre: Tensor,
    x: Tensor, values: Tensor, indices: Tensor, grad_x_hat: Tensor, offsets: Tensor, rows: Tensor, slots: Tensor,
    step: int, lr: float, beta1: float, beta2: float, eps: float, relu: bool, project: bool, unit_norm: bool,
    grad_aux: Tensor | None, k_aux: int, shadow_weights: Tensor | None, shadow_norms: Tensor | None,
    shadow_residuals: Tensor | None, scalars: Tensor | None, skip_mask: Tensor | None,
) -> None:  # fmt: skip
    dW_dec, dW_enc, db_enc, db_pre, _, _ = sparse_backward(
        x, values, indices, grad_x_hat, W_enc, W_dec, b_pre, offsets, rows, slots, relu, False, grad_aux, k_aux
    )
    if project:
        dW_dec -= (dW_dec * W_dec).sum(1, keepdim=True) * W_dec
    step_size, correction = adam_scalars(step, lr, beta1, beta2) if scalars is None else scalars.unbind()
    for parameter, gradient, mean, square in (
        (W_enc, dW_enc, m_enc, v_enc),
        (W_dec, dW_dec, m_dec, v_dec),
        (b_enc, db_enc, m_b_enc, v_b_enc),
        (b_pre, db_pre, m_b_pre, v_b_pre),
    ):
        _adam_(parameter, gradient, mean, square, step_size, correction, beta1, beta2, eps)
    if unit_norm:
        W_dec /= W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12)
    if skip_mask is not None:
        skip_mask.index_fill_(0, indices.flatten(), 0)
    shadow.refresh_(W_enc, shadow_weights, shadow_norms, shadow_residuals)


def adam_scalars(step: int, lr: float, beta1: float = 0.9, beta2: float = 0.999) -> tuple[float, float]:
    """Adam's step size ``lr / (1 - beta1^step)`` and the root of its second bias correction, ``1 - beta2^step``."""
    return lr / (1 - beta1**step), (1 - beta2**step) ** 0.5


def _adam_(
    parameter: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step_size, correction, b1, b2, eps
) -> None:
    mean.lerp_(gradient, 1 - b1)
    square.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
    root = (square.sqrt() / correction).add_(eps)
    if isinstance(step_size, Tensor):
        parameter.sub_(mean.div(root).mul_(step_size))
    else:
        parameter.addcdiv_(mean, root, value=-step_size)
