"""One training step, two ways: `fused_step` on the ops' single sweep, `autograd_step` on torch.optim.Adam."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast import ops
from revelio_fast.ksae.config import KSAEConfig
from revelio_fast.ksae.state import TrainingState
from revelio_fast.ksae.sums import mean_rows, squared_distance, sum_all


class StepResult(NamedTuple):
    """What a step reports: code of the batch (without auxiliary slots), FVU before the update, auxiliary loss."""

    code: ops.Code
    fvu: Tensor
    aux_loss: Tensor


def take_step(
    state: TrainingState,
    x: Tensor,
    config: KSAEConfig,
    dead: Tensor | None = None,
    scalars: Tensor | None = None,
) -> StepResult:
    """Train on the batch `x` ``[B, d]``, in place; the caller counts ``state.step``.

    `dead` lists the latents that the AuxK loss may use. `scalars` are those of `ops.adam_scalars` on the device; with
    them, and without dead latents, the fused step reads nothing back and can be captured as a CUDA graph.
    """
    if config.compat == "authors":
        with torch.no_grad():
            state.rows.W_dec.div_(state.rows.W_dec.norm(dim=1, keepdim=True))
    if dead is not None and not len(dead):
        dead = None
    if config.engine == "fused":
        return fused_step(state, x, config, dead, scalars)
    return autograd_step(state, x, config, dead)


@torch.no_grad()
def fused_step(
    state: TrainingState, x: Tensor, config: KSAEConfig, dead: Tensor | None, scalars: Tensor | None = None
) -> StepResult:
    """Encode, decode, loss gradient, then gradients, projection, Adam and unit norm in one sweep."""
    rows, sae, number = state.rows, state.sae, state.step + 1
    code = ops.topk_encode(
        x, rows.W_enc, rows.b_enc, rows.b_pre, sae.k, relu=sae.relu, precision=config.precision, shadow=state.shadow
    )
    residual, squares = ops.sparse_residual(code, rows.W_dec, rows.b_pre, x)
    tiny = torch.finfo(x.dtype).tiny
    variance = squared_distance(x, mean_rows(x)).clamp_min(tiny)
    error_squares = sum_all(squares)
    loss = error_squares / variance
    both, grad_aux, aux_loss, slope = code, None, x.new_zeros(()), _slope(loss, config)
    if dead is not None:
        aux = _aux_code(x, rows, dead, config, sae.relu)
        error, aux_squares = ops.sparse_residual(aux, rows.W_dec, torch.zeros_like(rows.b_pre), -residual)
        scale = error_squares.clamp_min(tiny)
        aux_loss = sum_all(aux_squares) / scale
        grad_aux = error * (slope * (2 * config.aux_coefficient / scale))
        both = ops.Code(torch.cat([code.values, aux.values], 1), torch.cat([code.indices, aux.indices], 1))
    ops.adam_unit_norm_step_(
        rows,
        x,
        both,
        residual * (slope * (2 / variance)),
        step=number,
        lr=config.lr_at(number),
        beta1=config.betas[0],
        beta2=config.betas[1],
        relu=sae.relu,
        unit_norm=config.compat == "paper",
        grad_aux=grad_aux,
        k_aux=both.values.shape[1] - sae.k,
        shadow=state.shadow,
        scalars=scalars,
        skip_mask=state.skip_mask,
    )
    return StepResult(code, loss, aux_loss)


def autograd_step(state: TrainingState, x: Tensor, config: KSAEConfig, dead: Tensor | None) -> StepResult:
    """The same by backward() through the differentiable ops and torch.optim.Adam."""
    rows, sae, number = state.rows, state.sae, state.step + 1
    parameters = [sae.W_enc, sae.W_dec, sae.b_enc, sae.b_pre]
    code = sae.encode(x, precision=config.precision)
    x_hat = sae.decode(code)
    tiny = torch.finfo(x.dtype).tiny
    variance = squared_distance(x, mean_rows(x)).clamp_min(tiny)
    loss, aux_loss = sum_all((x_hat - x).square()) / variance, x.new_zeros(())
    if dead is not None:
        live = rows._replace(W_enc=sae.W_enc, b_enc=sae.b_enc, b_pre=sae.b_pre)
        aux = _aux_code(x, live, dead, config, sae.relu)
        missing = (x - x_hat).detach()
        error = ops.sparse_decode(aux, sae.W_dec, torch.zeros_like(rows.b_pre)) - missing
        aux_loss = sum_all(error.square()) / sum_all(missing.square()).clamp_min(tiny)
    for parameter in parameters:
        parameter.grad = None
    (_slope(loss.detach(), config) * (loss + config.aux_coefficient * aux_loss)).backward()
    optimiser = torch.optim.Adam(parameters, lr=config.lr_at(number), betas=config.betas)
    moments = [
        (rows.m_enc, rows.v_enc),
        (rows.m_dec, rows.v_dec),
        (rows.m_b_enc, rows.v_b_enc),
        (rows.m_b_pre, rows.v_b_pre),
    ]
    for parameter, (mean, square) in zip(parameters, moments, strict=True):
        optimiser.state[parameter] = {"step": torch.tensor(float(number - 1)), "exp_avg": mean, "exp_avg_sq": square}
    with torch.no_grad():
        W_dec, grad = sae.W_dec, sae.W_dec.grad
        assert grad is not None, "backward() reached no decoder row"
        grad -= (grad * W_dec).sum(1, keepdim=True) * W_dec
        optimiser.step()
        if config.compat == "paper":
            W_dec.div_(W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))
    for parameter in parameters:
        parameter.grad = None
    detached = ops.Code(code.values.detach(), code.indices)
    return StepResult(detached, loss.detach(), aux_loss.detach())


def _slope(loss: Tensor, config: KSAEConfig) -> Tensor:
    """Derivative of what is minimised by the FVU; the AuxK loss is scaled alike, so that its weight stays."""
    if config.loss == "root_fvu":
        return 0.5 * loss.clamp_min(torch.finfo(loss.dtype).eps ** 2).rsqrt()
    return torch.ones_like(loss)


def _aux_code(x: Tensor, rows: ops.AdamRows, dead: Tensor, config: KSAEConfig, relu: bool) -> ops.Code:
    """The strongest `aux_k` of the dead latents, in the numbering of all latents."""
    count = min(config.aux_k or 0, len(dead))
    code = ops.topk_encode(
        x, rows.W_enc[dead], rows.b_enc[dead], rows.b_pre, count, relu=relu, precision=config.precision
    )
    return ops.Code(code.values, dead[code.indices])
