"""`accelerate(model)`: another library's TopK SAE runs on our ops, in place; `restore(model)` undoes it.

One file per library says what runs on the ops; base.py when, lazy.py what the dense codes are meanwhile.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any, NamedTuple

import torch
from torch import nn

from revelio_fast.interop.accelerate import optimizer as adam
from revelio_fast.interop.accelerate.base import Accelerated, KnownBug, Settings, give_back, take_over
from revelio_fast.interop.accelerate.dictionary_learning import (
    AcceleratedTrainer,
    DictionaryLearning,
    is_trainer,
    take_over_trainer,
)
from revelio_fast.interop.accelerate.official import Official
from revelio_fast.interop.accelerate.overcomplete import Overcomplete
from revelio_fast.interop.accelerate.saelens import SAELensInference, SAELensTraining
from revelio_fast.interop.accelerate.sparsify import Sparsify
from revelio_fast.ops import checks
from revelio_fast.ops.topk_encode import PRECISIONS

__all__ = ["LIBRARIES", "Acceleration", "KnownBug", "accelerate", "restore"]

LIBRARIES: tuple[type[Accelerated], ...] = (
    SAELensTraining,
    SAELensInference,
    Sparsify,
    DictionaryLearning,
    Overcomplete,
    Official,
)


class Acceleration(NamedTuple):
    """What `accelerate` did.

    Attributes
    ----------
    library, version : str
        Whose model it is; the version is empty for the authors' class, which no package ships.
    replaced : tuple of str
        Methods that run on the ops from now on.
    precision : str
        That of `ops.topk_encode`.
    known_bugs : tuple of KnownBug
        The library's defects on the way, each with what it does and what is meant.
    fixed : bool
        Whether these are fixed; otherwise they are as they were.
    optimizer : bool
        Whether the optimiser was fused.
    """

    library: str
    version: str
    replaced: tuple[str, ...]
    precision: str
    known_bugs: tuple[KnownBug, ...]
    fixed: bool
    optimizer: bool


def accelerate(
    model: Any,
    *,
    fix_known_bugs: bool = False,
    optimizer: torch.optim.Optimizer | None = None,
    precision: str = "fp32",
) -> Acceleration:
    """Let a TopK SAE of SAELens, sparsify, dictionary_learning, overcomplete or the authors' code run on our ops.

    The instance keeps its parameters, its ``state_dict`` and its numbers; its class becomes a subclass of what it was.
    Call it before the model is wrapped in DistributedDataParallel or compiled. With hooks on parts of the model, under
    autocast, in `torch.compile` and on inputs that are not float32 the library's own code runs.

    Parameters
    ----------
    model : Module
        In float32, on a CPU or a CUDA device. dictionary_learning keeps its auxiliary loss in its `TopKTrainer`, which
        is taken, too, and accelerated with its model.
    fix_known_bugs : bool
        Compute what the library means where it is known to compute something else; the result lists these places.
    optimizer : torch.optim.Adam, optional
        Over exactly the model's parameters: its steps become one pass over them (torch's fused kernel).
    precision : {"fp32", "fast", "bf16"}
        Which latents `ops.topk_encode` promises to find; "fp32" the k largest float32 scores.

    Returns
    -------
    Acceleration

    Raises
    ------
    ValueError
        For a model, version, shape, dtype, device or optimiser that is not known; nothing is changed then.

    Examples
    --------
    >>> rf.accelerate(sae)                    # doctest: +SKIP
    >>> SAETrainer(config, sae, data).fit()   # doctest: +SKIP
    >>> rf.restore(sae)                       # doctest: +SKIP
    """
    checks.choice("precision", precision, PRECISIONS)
    if is_trainer(model):
        report = accelerate(model.ae, fix_known_bugs=fix_known_bugs, optimizer=optimizer, precision=precision)
        take_over_trainer(model)
        return report._replace(replaced=(*report.replaced, "get_auxiliary_loss"))
    mixin, version = _mixin(model)
    reason = _refusal(model, mixin)
    if reason:
        raise ValueError(f"this {type(model).__name__} of {mixin.library} cannot be accelerated: {reason}")
    if optimizer is not None and (reason := adam.refusal(model, optimizer)):
        raise ValueError(reason)
    take_over(model, mixin, Settings(precision, fix_known_bugs))
    if isinstance(optimizer, torch.optim.Adam):
        adam.fuse(model, optimizer)
    return Acceleration(
        mixin.library, version, mixin.replaced, precision, mixin.known_bugs, fix_known_bugs, optimizer is not None
    )


def restore(model: Any) -> None:
    """Give an accelerated model its own class back, its parameters their strides, and its optimiser its own steps.

    Raises
    ------
    ValueError
        If the model is not accelerated.
    """
    if isinstance(model, AcceleratedTrainer):
        restore(model.ae)
        model.__class__ = model._original_class
        return
    if not isinstance(model, Accelerated):
        raise ValueError(f"this {type(model).__name__} is not accelerated: restore takes what accelerate was given")
    give_back(model)
    adam.unfuse(model)


def _mixin(model: object) -> tuple[type[Accelerated], str]:
    """The library of a model and its version."""
    if isinstance(model, Accelerated | AcceleratedTrainer):
        raise ValueError(f"this {type(model).__name__} is accelerated already: restore it first to change how")
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise ValueError("accelerate the model before it is wrapped: accelerate(model), then wrap it")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for mixin in LIBRARIES:
        if mixin.recognises(model):
            return mixin, _version(mixin)
    cls = type(model)
    raise ValueError(
        f"{cls.__module__}.{cls.__qualname__} is no SAE of a known library: accelerate takes TopK SAEs of SAELens, "
        "sparsify, dictionary_learning, overcomplete and the authors' code"
    )


def _version(mixin: type[Accelerated]) -> str:
    if not mixin.distribution:
        return ""
    known = " or ".join(f"{beginning}x" for beginning in mixin.versions)
    try:
        version = importlib.metadata.version(mixin.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"no installed {mixin.distribution} says which version of {mixin.library} this is, and only {known} is "
            "known: install it by pip"
        ) from None
    if not version.startswith(mixin.versions):
        raise ValueError(f"{mixin.library} {version} is not known, only {known}: install one of these")
    return version


def _refusal(model: Any, mixin: type[Accelerated]) -> str:
    """Why this model of a known library cannot be accelerated, as a clause, or ""."""
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            return f"its {name} is {parameter.dtype}, and the ops take torch.float32: convert it with .float()"
        if parameter.device.type not in ("cpu", "cuda"):
            return f"its {name} is on {parameter.device}, and the ops run on cpu and cuda"
    reason = mixin.refusal(model)
    if reason:
        return reason
    for name in mixin.replaced:
        elsewhere = mixin.package and getattr(type(model), name).__module__.split(".")[0] != mixin.package
        if elsewhere or name in vars(model):
            return f"its {name} is not its library's own"
    return ""
