"""`torch.optim.Adam` over the parameters of an accelerated model, in one pass over them per step instead of about ten."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import nn

from revelio_fast.interop.accelerate.rows import laid_out

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class _Fused(NamedTuple):
    optimizer: weakref.ref[torch.optim.Adam]
    flags: list[tuple[Any, Any]]
    hook: Any


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
    """Let the optimiser step by torch's fused kernel, whose numbers are Adam's.

    That kernel reads parameter, gradient and moments by position in memory, without regard to strides, so that each
    gradient and moment is given its parameter's strides first.
    """
    flags = [(group.get("fused"), group.get("foreach")) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
    hook = optimizer.register_step_pre_hook(_same_strides)
    _fused[model] = _Fused(weakref.ref(optimizer), flags, hook)


def unfuse(model: nn.Module) -> None:
    """Undo `fuse`, where it was done; moments keep their values."""
    held = _fused.pop(model, None)
    if held is None:
        return
    held.hook.remove()
    optimizer = held.optimizer()
    if optimizer is None:
        return
    for group, (fused, foreach) in zip(optimizer.param_groups, held.flags, strict=False):
        group["fused"], group["foreach"] = fused, foreach
    _same_strides(optimizer)


def _same_strides(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad = laid_out(parameter.grad, parameter.stride())
            state = optimizer.state.get(parameter, {})
            for name in MOMENTS:
                if name in state:
                    state[name] = laid_out(state[name], parameter.stride())
            step = state.get("step")
            if group["fused"] and isinstance(step, torch.Tensor) and step.device != parameter.device:
                state["step"] = step.to(parameter.device)
