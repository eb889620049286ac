"""adam_unit_norm_step_ by csrc/cpu/adam_unit_norm_step.cpp."""

from revelio_fast.ops import shadow
from revelio_fast.ops.cpu_runtime import addresses, dense, load, threads, unavailable

__all__ = ["adam_unit_norm_step_", "unavailable"]


def adam_unit_norm_step_(
    W_enc, W_dec, b_enc, b_pre, m_enc, v_enc, m_dec, v_dec, m_b_enc, v_b_enc, m_b_pre, v_b_pre,
    x, values, indices, grad_x_hat, offsets, rows, slots,
    step, lr, beta1, beta2, eps, relu, project, unit_norm, grad_aux, k_aux,
    shadow_weights, shadow_norms, shadow_residuals, scalars, settled,
) -> None:  # fmt: skip
    x, values, indices, grad = dense(x, values, indices, grad_x_hat)
    offsets, rows, slots = dense(offsets, rows, slots)
    grad_aux = None if grad_aux is None else grad_aux.contiguous()
    (B, k), (n, d) = values.shape, W_dec.shape
    batch = addresses(
        x=x, values=values, indices=indices, grad=grad, grad_aux=grad_aux, W_enc=W_enc, W_dec=W_dec, b_pre=b_pre,
        offsets=offsets, rows=rows, slots=slots,
    )  # fmt: skip
    state = addresses(
        W_enc=W_enc, W_dec=W_dec, b_enc=b_enc, b_pre=b_pre, m_enc=m_enc, v_enc=v_enc, m_dec=m_dec, v_dec=v_dec,
        m_b_enc=m_b_enc, v_b_enc=v_b_enc, m_b_pre=m_b_pre, v_b_pre=v_b_pre,
        scalars=None if scalars is None else scalars.contiguous(), settled=settled,
    )  # fmt: skip
    load().adam_unit_norm_step(
        batch, state, B, k, k_aux, d, n, relu, threads(), step, lr, beta1, beta2, eps, project, unit_norm
    )
    if shadow_weights is not None:
        shadow.refresh_(W_enc, shadow_weights, shadow_norms, shadow_residuals)
