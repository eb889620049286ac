"""What accelerated models of all libraries share: when the ops run, saving, copying, and the generated classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from revelio_fast import ops
from revelio_fast.interop.accelerate.lazy import dense_code
from revelio_fast.interop.accelerate.rows import as_rows, lay_out

if TYPE_CHECKING:
    _Mixin = nn.Module
else:  # In the generated classes nn.Module comes from the library's class, which must be their first base: Python lets
    _Mixin = object  # an instance change its class only where the layouts agree.


class KnownBug(NamedTuple):
    """A defect of a library's model: what it does, and what happens instead with ``fix_known_bugs=True``."""

    name: str
    what: str
    instead: str


@dataclass
class Settings:
    """How a model was accelerated.

    Attributes
    ----------
    precision : str
        That of `ops.topk_encode`.
    fix_known_bugs : bool
        Run what was meant where the library is known to be wrong.
    strides : dict
        Strides that the parameters had before, by name.
    """

    precision: str
    fix_known_bugs: bool
    strides: dict[str, tuple[int, ...]] = field(default_factory=dict)


class Accelerated(_Mixin):
    """Base of the mixins: each replaces some methods of one library's class, and calls the original where it must.

    Attributes
    ----------
    library, package, distribution : str
        Names for people, for import and for pip.
    versions : tuple of str
        Beginnings of the versions that were read and tested; empty for a class that no package ships.
    latents_dims : dict
        Name -> the dimension of latents, of each parameter that the ops take as rows.
    replaced : tuple of str
        Methods that run on the ops.
    known_bugs : tuple of KnownBug
    """

    library: ClassVar[str]
    package: ClassVar[str] = ""
    distribution: ClassVar[str] = ""
    versions: ClassVar[tuple[str, ...]] = ()
    latents_dims: ClassVar[dict[str, int]]
    replaced: ClassVar[tuple[str, ...]]
    known_bugs: ClassVar[tuple[KnownBug, ...]] = ()
    _mixin: ClassVar[type[Accelerated]]
    _original_class: ClassVar[Any]
    _accelerated: Settings

    @classmethod
    def recognises(cls, model: nn.Module) -> bool:
        """Whether the model is of this library's classes (of any kind, version or shape)."""
        raise NotImplementedError

    @classmethod
    def refusal(cls, model: Any) -> str:
        """Why this model of the library cannot be accelerated: a clause, or "" where it can."""
        raise NotImplementedError

    def _rows(self, name: str) -> Tensor:
        """A parameter as ``[n, d]`` rows."""
        return as_rows(self.get_parameter(name), self.latents_dims[name])

    def _runs(self, x: Tensor, *parts: Tensor) -> bool:
        """Whether the ops may stand in for the library's code on this input, here and now."""
        return (
            not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and isinstance(x, Tensor)
            and not torch.is_autocast_enabled(x.device.type)
            and all(t.dtype == torch.float32 and t.device == x.device for t in (x, *parts, *self.parameters()))
            and not hooked(self)
        )

    def _dense(self, code: ops.Code, x: Tensor, decoded: ops.Code | None = None) -> Tensor:
        """The code of rows ``[..., d]`` as the library returns it: dense, in training filled only when it is read."""
        n = self._rows(next(iter(self.latents_dims))).shape[0]
        lazy = self.training and torch.is_grad_enabled()
        return dense_code(code, (*x.shape[:-1], n), lazy=lazy, decoded=decoded)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The library's, with contiguous tensors, which safetensors asks for."""
        state = self._original_class.state_dict(self, *args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        for name in self.latents_dims:
            if not kwargs.get("keep_vars", False) and prefix + name in state:
                state[prefix + name] = state[prefix + name].contiguous()
        return state

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _empty, (self._mixin, self._original_class), self.__getstate__()


def hooked(model: nn.Module) -> bool:
    """Whether a forward or backward hook sits on a part of the model, or on all modules."""
    parts = (part for part in model.modules() if part is not model)
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    ) or any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in parts
    )


def zeros(like: Tensor, size: int) -> Tensor:
    """A bias that a model lacks."""
    return torch.zeros(size, dtype=like.dtype, device=like.device)


_classes: dict[tuple[type[Accelerated], type[nn.Module]], type[nn.Module]] = {}


def accelerated_class(mixin: type[Accelerated], original: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a library's class in which the mixin's methods take the place of the library's."""
    if (mixin, original) not in _classes:
        body = {name: getattr(mixin, name) for name in (*mixin.replaced, "state_dict", "__reduce_ex__")}
        body |= {"_mixin": mixin, "_original_class": original, "__module__": __name__}
        body["__doc__"] = f"{original.__name__} on the ops of revelio_fast."
        _classes[mixin, original] = type(f"Accelerated{original.__name__}", (original, mixin), body)
    return _classes[mixin, original]


def take_over(model: nn.Module, mixin: type[Accelerated], settings: Settings) -> None:
    """Give the instance its generated class, and its parameters contiguous rows."""
    for name, dim in mixin.latents_dims.items():
        parameter = model.get_parameter(name)
        settings.strides[name] = parameter.stride()
        as_rows(parameter, dim)
    model.__dict__["_accelerated"] = settings
    model.__class__ = accelerated_class(mixin, type(model))


def give_back(model: Accelerated) -> None:
    """Undo `take_over`."""
    for name, strides in model._accelerated.strides.items():
        lay_out(model.get_parameter(name), strides)
    del model.__dict__["_accelerated"]
    model.__class__ = model._original_class


def _empty(mixin: type[Accelerated], original: type[nn.Module]) -> nn.Module:
    """An instance without attributes, for copy and pickle."""
    cls = accelerated_class(mixin, original)
    return cls.__new__(cls)
