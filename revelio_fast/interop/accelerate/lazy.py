"""Dense ``[..., n]`` tensors that other libraries pass around, filled only when something reads their elements.

`dense_code` is a code as its library knows it: every torch operation, hook and gradient sees the dense tensor, while
the sums and comparisons by which trainers count active latents read the k entries of each row. `computed_when_read`
stands for pre-activations. `carry` and `carried` tie to a tensor what it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from revelio_fast import ops

aten = torch.ops.aten


class Source:
    """Where the elements of a lazy tensor come from; shared by a tensor and its detached aliases."""

    def __init__(self, fill: Callable[[], Tensor], code: ops.Code | None = None) -> None:
        self._fill = fill
        self._code = code
        self._dense: Tensor | None = None

    @property
    def code(self) -> ops.Code | None:
        """The entries, until the dense tensor exists: from then on it may be changed in place."""
        return self._code if self._dense is None else None

    def dense(self) -> Tensor:
        if self._dense is None:
            with torch.no_grad():
                self._dense = self._fill()
        return self._dense


class LazyTensor(torch.Tensor):
    """A tensor whose elements are made when an operation first reads them."""

    _source: Source

    @staticmethod
    def __new__(cls, source: Source, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> LazyTensor:
        lazy = torch.Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=dtype, device=device)
        lazy._source = source
        return lazy

    def __init__(self, *_: Any) -> None:
        super().__init__()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        first = args[0] if args and isinstance(args[0], LazyTensor) else None
        if func is aten.detach.default and first is not None:
            return LazyTensor(first._source, first.shape, first.dtype, first.device)
        if first is not None and first._source.code is not None and func in ON_CODES:
            result = ON_CODES[func](first, first._source.code, *args[1:], **(kwargs or {}))
            if result is not NotImplemented:
                return result
        dense_args = tree_map_only(LazyTensor, _dense, args)
        result = func(*dense_args, **tree_map_only(LazyTensor, _dense, kwargs or {}))
        # An in-place operation hands back the tensor that it was given.
        return first if first is not None and result is dense_args[0] else result

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._source.dense().__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(self.clone())

    def numpy(self, *, force: bool = False) -> Any:
        return self.clone().numpy(force=force)

    def tolist(self) -> Any:
        return self._source.dense().tolist()


def _dense(lazy: LazyTensor) -> Tensor:
    return lazy._source.dense()


def of_code(code: ops.Code, shape: Sequence[int]) -> LazyTensor:
    """A lazy tensor of `shape` ``[..., n]`` with the entries of a code ``[B, k]`` of any dtype, without a gradient."""
    values, indices = code

    def fill() -> Tensor:
        dense = values.new_zeros(len(values), shape[-1])
        return dense.scatter_(1, indices, values).view(*shape)

    return LazyTensor(Source(fill, code), shape, values.dtype, values.device)


class _DenseCode(torch.autograd.Function):
    """From the values of a code to the dense tensor; the gradient is gathered back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, shape: Sequence[int]) -> Tensor:
        ctx.save_for_backward(indices)
        return of_code(ops.Code(values.detach(), indices), shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        return grad.reshape(len(indices), -1).gather(1, indices), None, None


class _Carried(NamedTuple):
    what: Any
    version: int


_carried = WeakTensorKeyDictionary()


def carry(tensor: Tensor, what: Any) -> Tensor:
    """Tie `what` to a tensor, for `carried`."""
    _carried[tensor] = _Carried(what, tensor._version)
    return tensor


def carried(tensor: Tensor) -> Any:
    """What is tied to this very tensor, or None; also None if something has changed the tensor in place since."""
    held = _carried.get(tensor)
    return held.what if held is not None and held.version == tensor._version else None


def dense_code(code: ops.Code, shape: Sequence[int], *, lazy: bool, decoded: ops.Code | None = None) -> Tensor:
    """A code as a dense tensor of `shape` ``[..., n]``, to which `decoded` (or `code`) is tied, for `carried`.

    Parameters
    ----------
    code : Code
        ``[B, k]``; gradients at the dense tensor reach its values.
    lazy : bool
        Fill the tensor only when it is read.
    decoded : Code, optional
        The entries as the decoder uses them, where the library scales them in between.
    """
    if lazy:
        dense = _DenseCode.apply(*code, shape)
    else:
        zeros = code.values.new_zeros(len(code.values), shape[-1])
        dense = zeros.scatter(1, code.indices, code.values).view(*shape)
    return carry(dense, decoded or code)


class _ComputedWhenRead(torch.autograd.Function):
    """``compute(*inputs)``, run when it is read; backward() runs it once more, with a graph."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Tensor], name: str, shape: Sequence[int], *inputs: Tensor) -> Tensor:
        ctx.compute = compute
        ctx.save_for_backward(*inputs)
        held = [(tensor, tensor._version, tensor.data_ptr()) for tensor in inputs]

        def fill() -> Tensor:
            if any(t._version != version or t.data_ptr() != pointer for t, version, pointer in held):
                raise RuntimeError(
                    f"{name} was left out of the accelerated forward pass, and the parameters that it is computed from "
                    "have changed since: read it before the optimiser's step, or revelio_fast.restore(model) first"
                )
            return compute(*(tensor.detach() for tensor, *_ in held))

        return LazyTensor(Source(fill), shape, inputs[0].dtype, inputs[0].device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        inputs = [t.detach().requires_grad_(t.requires_grad) for t in ctx.saved_tensors]
        wanted = [t for t in inputs if t.requires_grad]
        with torch.enable_grad():
            found = iter(torch.autograd.grad(ctx.compute(*inputs), wanted, grad, allow_unused=True))
        return None, None, None, *(next(found) if t.requires_grad else None for t in inputs)


def computed_when_read(
    compute: Callable[..., Tensor], inputs: Sequence[Tensor], shape: Sequence[int], name: str
) -> Tensor:
    """``compute(*inputs)`` of `shape`, differentiable, but computed only if something reads it.

    Raises
    ------
    RuntimeError
        When it is read after an input has changed in place: `name` says to the user what was read.
    """
    return _ComputedWhenRead.apply(compute, name, shape, *inputs)


def _per_entry(function: Callable[..., Tensor], keeps_zero: Callable[..., bool]) -> Callable[..., Any]:
    """An elementwise operation on the entries alone, where it maps zero to zero."""

    def on_code(lazy: LazyTensor, code: ops.Code, *args: Any, **kwargs: Any) -> Any:
        if not keeps_zero(*args):
            return NotImplemented
        return of_code(ops.Code(function(code.values, *args, **kwargs), code.indices), lazy.shape)

    return on_code


def _to_dtype(lazy: LazyTensor, code: ops.Code, *, dtype: torch.dtype | None = None, **others: Any) -> Any:
    if dtype is None or any(others.get(name) for name in ("device", "layout", "memory_format", "pin_memory")):
        return NotImplemented
    return of_code(ops.Code(code.values.to(dtype), code.indices), lazy.shape)


def _over_rows(lazy: LazyTensor, dims: Any, keepdim: bool) -> bool:
    """Whether a reduction of a ``[B, n]`` tensor is over its rows."""
    dims = [dims] if isinstance(dims, int) else list(dims or ())
    return lazy.dim() == 2 and not keepdim and [dim % 2 for dim in dims] == [0]


def _sum(
    lazy: LazyTensor, code: ops.Code, dims: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    if not _over_rows(lazy, dims, keepdim) or not lazy.dtype.is_floating_point or dtype not in (None, lazy.dtype):
        return NotImplemented
    sums = code.values.new_zeros(lazy.shape[-1])
    return sums.index_add_(0, code.indices.flatten(), code.values.flatten())


def _mean(lazy: LazyTensor, code: ops.Code, dims: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    sums = _sum(lazy, code, dims, keepdim, **kwargs)
    return sums if sums is NotImplemented else sums / lazy.shape[0]


def _any(lazy: LazyTensor, code: ops.Code, dim: Any = None, keepdim: bool = False) -> Any:
    if not _over_rows(lazy, dim, keepdim):
        return NotImplemented
    found = torch.zeros(lazy.shape[-1], dtype=torch.bool, device=lazy.device)
    found[code.indices[code.values.bool()]] = True
    return found


# What the libraries' trainers do to a code in every step: firing counts, and how many entries are not zero.
ON_CODES: dict[Any, Callable[..., Any]] = {
    aten._to_copy.default: _to_dtype,
    aten.abs.default: _per_entry(torch.abs, lambda: True),
    aten.gt.Scalar: _per_entry(torch.gt, lambda bound: bound >= 0),
    aten.ge.Scalar: _per_entry(torch.ge, lambda bound: bound > 0),
    aten.ne.Scalar: _per_entry(torch.ne, lambda bound: bound == 0),
    aten.sum.dim_IntList: _sum,
    aten.mean.dim: _mean,
    aten.any.dim: _any,
}
