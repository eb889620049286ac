"""adam_unit_norm_step_ by csrc/cuda/adam_unit_norm_step.cu."""

from revelio_fast.ops import checks, cuda_runtime
from revelio_fast.ops.cuda_runtime import addresses, dense, unavailable

__all__ = ["adam_unit_norm_step_", "unavailable"]


def adam_unit_norm_step_(
    W_enc, W_dec, b_enc, b_pre, m_enc, v_enc, m_dec, v_dec, m_b_enc, v_b_enc, m_b_pre, v_b_pre,
    x, values, indices, grad_x_hat, offsets, rows, slots,
    step, lr, beta1, beta2, eps, relu, project, unit_norm, grad_aux, k_aux,
    shadow_weights, shadow_norms, shadow_residuals, scalars, settled,
) -> None:  # fmt: skip
    checks.indices_in_range(indices, W_dec.shape[0])
    x, values, indices, grad = dense(x, values, indices, grad_x_hat)
    offsets, rows, slots = dense(offsets, rows, slots)
    grad_aux = None if grad_aux is None else grad_aux.contiguous()
    scalars = None if scalars is None else scalars.contiguous()
    (B, k), (n, d) = values.shape, W_dec.shape
    batch = addresses(
        x=x, values=values, indices=indices, grad=grad, grad_aux=grad_aux, W_enc=W_enc, W_dec=W_dec, b_pre=b_pre,
        offsets=offsets, rows=rows, slots=slots,
    )  # fmt: skip
    state = addresses(
        W_enc=W_enc, W_dec=W_dec, b_enc=b_enc, b_pre=b_pre, m_enc=m_enc, v_enc=v_enc, m_dec=m_dec, v_dec=v_dec,
        m_b_enc=m_b_enc, v_b_enc=v_b_enc, m_b_pre=m_b_pre, v_b_pre=v_b_pre, scalars=scalars,
    )  # fmt: skip
    if settled is not None:
        settled.index_fill_(0, indices.flatten(), 0)  # nothing is skipped here
    shadow = addresses(weights=shadow_weights, norms=shadow_norms, residuals=shadow_residuals)
    module = cuda_runtime.load()
    space = cuda_runtime.workspace(x, module.sparse_backward_workspace(B * k, n, d))
    module.adam_unit_norm_step(
        batch, state, shadow, space.data_ptr(), B, k, k_aux, d, n, relu,
        step, lr, beta1, beta2, eps, project, unit_norm, *cuda_runtime.place(x),
    )  # fmt: skip
