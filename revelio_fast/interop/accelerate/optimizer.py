"""`torch.optim.Adam` over the parameters of an accelerated model, in one pass over them per step instead of about ten.

The optimiser keeps its class, its state and its settings. A hook before its step does the work and hides the gradients,
so that the step itself finds nothing to do; a hook after it puts them back. Where gradients are still pending
(pending.py) the pass is `ops.adam_unit_norm_step_`, which never stores them; otherwise it is torch's fused kernel.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from revelio_fast import ops
from revelio_fast.interop.accelerate.lazy import LazyTensor
from revelio_fast.interop.accelerate.pending import PendingStep, pending_step
from revelio_fast.interop.accelerate.rows import laid_out

_MOMENTS = ("exp_avg", "exp_avg_sq")


class _Fused(NamedTuple):
    optimizer: weakref.ref[torch.optim.Adam]
    hooks: tuple[Any, ...]


_fused: weakref.WeakKeyDictionary[nn.Module, _Fused] = weakref.WeakKeyDictionary()


def refusal(model: nn.Module, optimizer: object) -> str:
    """Why the optimiser cannot be fused, as a sentence, or ""."""
    if type(optimizer) is not torch.optim.Adam:
        return f"optimizer must be a torch.optim.Adam, whose steps are known, got {type(optimizer).__name__}"
    theirs = {id(p) for group in optimizer.param_groups for p in group["params"]}
    ours = {id(p) for p in model.parameters()}
    if theirs != ours:
        return (
            "optimizer must hold exactly the model's parameters: "
            f"it lacks {len(ours - theirs)} of them and has {len(theirs - ours)} others"
        )
    for group in optimizer.param_groups:
        for name in ("amsgrad", "maximize", "capturable", "differentiable", "weight_decay"):
            if group.get(name):
                return f"optimizer must be plain Adam, but its {name} is {group[name]}"
    return ""


def fuse(model: nn.Module, optimizer: torch.optim.Adam) -> None:
    """Let the optimiser step in one pass, with Adam's numbers."""
    step = _Step()
    hooks = optimizer.register_step_pre_hook(step.take), optimizer.register_step_post_hook(step.put_back)
    _fused[model] = _Fused(weakref.ref(optimizer), hooks)


def is_fused(model: nn.Module) -> bool:
    """Whether gradients may wait for the optimiser's step: not where other processes wait for them."""
    return model in _fused and not (torch.distributed.is_available() and torch.distributed.is_initialized())


def unfuse(model: nn.Module) -> None:
    """Undo `fuse`, where it was done: the optimiser steps by itself, from moments that lie as its parameters do."""
    held = _fused.pop(model, None)
    if held is None:
        return
    for hook in held.hooks:
        hook.remove()
    optimizer = held.optimizer()
    for parameter, state in optimizer.state.items() if optimizer is not None else ():
        for name in _MOMENTS:
            state[name] = laid_out(state[name], parameter.stride())


class _Step:
    """The two hooks around one optimiser's step, and the gradients that are hidden meanwhile."""

    def __init__(self) -> None:
        self._hidden: list[tuple[nn.Parameter, Tensor]] = []

    def take(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # A closure makes the gradients within the step, and AMP's scaler hands over what scales them.
        if any(value is not None for value in (*args[1:], *kwargs.values())) or hasattr(optimizer, "grad_scale"):
            return
        groups = optimizer.param_groups
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        pending = pending_step(parameters) if len(groups) == 1 and len(parameters) == 4 else None
        if pending is not None:
            _sweep(optimizer, pending)
            for parameter in parameters:
                parameter.grad = None
            return
        for group in groups:
            _pass(optimizer, group)
        self._hidden = [(p, p.grad) for p in parameters if p.grad is not None]
        for parameter in parameters:
            parameter.grad = None

    def put_back(self, *_: Any) -> None:
        for parameter, grad in self._hidden:
            parameter.grad = grad
        self._hidden = []


def _moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> list[Tensor]:
    """Both moments of a parameter, laid out as it is; made as torch makes them before its first step."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state |= {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in _MOMENTS}
    state |= {name: laid_out(state[name], parameter.stride()) for name in _MOMENTS}
    return [state[name] for name in _MOMENTS]


def _sweep(optimizer: torch.optim.Optimizer, pending: PendingStep) -> None:
    """Adam's step from a code and the gradient at its reconstruction."""
    (group,) = optimizer.param_groups
    encoder = pending.encoder
    parameters = (encoder.W_enc, pending.W_dec, encoder.b_enc, encoder.b_pre)
    moments = [moment for parameter in parameters for moment in _moments(optimizer, parameter)]
    beta1, beta2 = group["betas"]
    enc, dec, b_enc, b_pre = (parameter.detach() for parameter in parameters)
    ops.adam_unit_norm_step_(
        ops.AdamRows(enc, dec, b_enc, b_pre, *moments),
        pending.x,
        pending.code,
        pending.grad,
        step=int(optimizer.state[parameters[0]]["step"]) + 1,
        lr=float(group["lr"]),
        beta1=float(beta1),
        beta2=float(beta2),
        eps=group["eps"],
        relu=encoder.relu,
        project=pending.project,
        unit_norm=False,
    )
    for parameter in parameters:
        optimizer.state[parameter]["step"] += 1


def _pass(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """Adam's step by torch's fused kernel, which goes by position in memory: all tensors lie as the parameter does."""
    columns: list[list[Tensor]] = [[], [], [], [], []]  # parameters, gradients, both moments, numbers of steps
    for parameter in group["params"]:
        if parameter.grad is None:
            continue
        grad = parameter.grad.clone() if isinstance(parameter.grad, LazyTensor) else parameter.grad
        parameter.grad = grad = laid_out(grad, parameter.stride())
        tensors = [parameter.detach(), grad, *_moments(optimizer, parameter)]
        if not parameter.is_contiguous() and parameter.dim() == 2:
            tensors = [tensor.t() for tensor in tensors]
        state = optimizer.state[parameter]
        state["step"] = state["step"].to(parameter.device)  # where the fused kernel reads it
        for column, tensor in zip(columns, [*tensors, state["step"]], strict=True):
            column.append(tensor)
    if not columns[0]:
        return
    parameters, grads, means, squares, steps = columns
    beta1, beta2 = group["betas"]
    with torch.no_grad():
        adam(
            parameters,
            grads,
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=0,
            eps=group["eps"],
            maximize=False,
        )
