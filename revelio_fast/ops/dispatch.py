"""Which code runs an op: torch.library chooses by device, `use_backend` and ``REVELIO_BACKEND`` by name.

`custom_op` makes every op. Its default kernel is the specification in plain PyTorch (backend "torch",
``revelio_fast/ops/<op>/reference.py``), whose signature is the op's. For CPU and CUDA tensors a kernel is registered
that runs the backend named for them, the function of the same name in ``revelio_fast/ops/<op>/<backend>.py``.

Chosen by device, a backend that fails is replaced by the specification: once, with one warning, and for the rest of the
process. Errors that another backend would raise as well are raised (a ValueError, memory that ran out), and so is every
error of an op that works in place, which may have changed its arguments already. A backend chosen by name raises.
"""

import functools
import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import CustomOpDef

from revelio_fast.ops.triton_runtime import INTERPRETED

BACKENDS = ("torch", "cpu", "triton", "cuda")

# The device types whose tensors a backend takes; "torch" takes any.
DEVICES = {"cpu": {"cpu"}, "triton": {"cuda", "cpu"} if INTERPRETED else {"cuda"}, "cuda": {"cuda"}}


class BackendError(RuntimeError):
    """A backend cannot run an op here; the message says why and what to do."""


class BackendStatus(NamedTuple):
    """One line of the table of `backends`: `reason` is empty when the implementation can run here."""

    op: str
    device: str
    backend: str
    reason: str


@dataclass(frozen=True, eq=False)
class Op:
    """An op and where its code is.

    Attributes
    ----------
    name : str
        That of the op and of each of its functions.
    package : str
        ``revelio_fast.ops.<op>``; the modules in it are named after the backends.
    arguments : tuple of str
        Their names, in order.
    preferred : dict
        Device type -> the backend that runs tensors there. Tensors of any other device go to "torch".
    in_place : bool
        Whether it changes its arguments.
    internal : bool
        Autograd calls it and nobody else: a backend chosen by name that lacks it leaves it to the choice by device.
    """

    name: str
    package: str
    arguments: tuple[str, ...]
    preferred: dict[str, str]
    in_place: bool
    internal: bool


OPS: dict[str, Op] = {}

_chosen: str | None = None
_failed: dict[tuple[str, str], str] = {}


def custom_op(
    reference: Callable[..., Any], *, cuda: str, mutates_args: Sequence[str] = (), internal: bool = False
) -> CustomOpDef:
    """Make ``revelio_fast::<name>`` of the specification of that name.

    Parameters
    ----------
    reference : callable
        Its annotated signature, without defaults, is the op's; the first argument is a tensor.
    cuda : {"triton", "cuda"}
        The backend for CUDA tensors; that for CPU tensors is "cpu".
    mutates_args : sequence of str
        Arguments that are changed in place.
    internal : bool
        See `Op`.
    """
    package, name = reference.__module__.rpartition(".")[0], reference.__name__
    arguments = tuple(inspect.signature(reference).parameters)
    OPS[name] = op = Op(name, package, arguments, {"cpu": "cpu", "cuda": cuda}, bool(mutates_args), internal)

    @functools.wraps(reference)
    def on_any_device(*given: Any) -> Any:
        return _on_device(op, given[0].device.type, *given)

    made = torch.library.custom_op(f"revelio_fast::{name}", on_any_device, mutates_args=mutates_args)
    for device in op.preferred:
        made.register_kernel(device, functools.partial(_on_device, op, device))
    return made


class use_backend:
    """Run every op by one backend, from the call on; as a context manager, until the block ends.

    It holds for the whole process, autograd's threads included, and comes before ``REVELIO_BACKEND``. An op that the
    backend cannot run raises `BackendError`.

    Parameters
    ----------
    name : {"auto", "torch", "cpu", "triton", "cuda"}
        "torch" is the specification and runs on any device; "auto" goes back to the choice by device.

    Raises
    ------
    ValueError
        For any other name.

    Examples
    --------
    >>> use_backend("torch")  # from here on
    >>> with use_backend("cpu"):
    ...     code = topk_encode(x, W_enc, b_enc, b_pre, k=32)
    """

    def __init__(self, name: str) -> None:
        global _chosen
        self._before = _chosen
        _chosen = _known(name, "use_backend")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        global _chosen
        _chosen = self._before


def backends() -> list[BackendStatus]:
    """Every implementation in order of preference, with the reason when it cannot run on this machine."""
    return [
        BackendStatus(op.name, device, backend, _reason(op, backend))
        for op in OPS.values()
        for device, preferred in op.preferred.items()
        for backend in (preferred, "torch")
    ]


def chosen(name: str, device: str) -> str:
    """The backend that the op `name` would run by for tensors of a device type, if it does not fail."""
    op = OPS[name]
    preferred = op.preferred.get(device, "torch")
    return _asked(op) or ("torch" if _reason(op, preferred) else preferred)


def reset() -> None:
    """Forget which backends can run and which have failed, as in a new process; for tests."""
    _probe.cache_clear()
    _failed.clear()


def _on_device(op: Op, device: str, *given: Any) -> Any:
    if backend := _asked(op):
        reason = _probe(op, backend)[1]
        if backend != "torch" and device not in DEVICES[backend]:
            reason = f"it does not run on {device} tensors"
        if reason:
            raise BackendError(
                f"backend {backend!r} cannot run {op.name}: {reason}. `revelio-fast doctor` lists what can."
            )
        return _call(op, backend, given)
    backend = op.preferred.get(device, "torch")
    if backend != "torch" and not _reason(op, backend):
        try:
            return _call(op, backend, given)
        except Exception as error:
            if op.in_place or isinstance(error, ValueError) or _out_of_memory(error):
                raise
            _failed[op.name, backend] = f"failed in this process: {error}"
            warnings.warn(
                f"backend {backend!r} failed to run {op.name} ({type(error).__name__}: {error}); PyTorch runs it from "
                f"now on. use_backend({backend!r}) shows the error with its traceback.",
                RuntimeWarning,
                stacklevel=2,
            )
    return _call(op, "torch", given)


def _call(op: Op, backend: str, given: tuple[Any, ...]) -> Any:
    """The result of an implementation. Ours read tensors by address: they are given dense ones, by name."""
    function = getattr(_probe(op, backend)[0], op.name)
    if backend == "torch":
        return function(*given)
    dense = (value.contiguous() if isinstance(value, Tensor) else value for value in given)
    return function(**dict(zip(op.arguments, dense, strict=True)))


def _reason(op: Op, backend: str) -> str:
    """Why a backend is not chosen by device; empty where it is."""
    return _failed.get((op.name, backend)) or _probe(op, backend)[1]


@functools.cache
def _probe(op: Op, backend: str) -> tuple[ModuleType | None, str]:
    """The module of an implementation, and why it cannot run here (empty: it can). Looked at once per process."""
    try:
        module = importlib.import_module(f"{op.package}.{'reference' if backend == 'torch' else backend}")
        runtime = importlib.import_module(f"revelio_fast.ops.{backend}_runtime") if backend != "torch" else None
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("revelio_fast.ops."):
            return None, f"not implemented by {backend!r}"
        return None, f"needs the module {error.name}, which is not installed or not built"
    except (ImportError, OSError) as error:
        return None, str(error)
    return module, runtime.unavailable() if runtime else ""


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: std::bad_alloc comes as MemoryError, torch's CPU allocator raises a RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _asked(op: Op) -> str | None:
    """The backend that was chosen by name, if any."""
    name = _chosen or _known(os.environ.get("REVELIO_BACKEND") or "auto", "REVELIO_BACKEND")
    if name == "auto" or (op.internal and name != "torch" and name not in op.preferred.values()):
        return None
    return name


def _known(name: str, where: str) -> str:
    allowed = ("auto", *BACKENDS)
    if name not in allowed:
        raise ValueError(f"{where} must be one of {', '.join(map(repr, allowed))}, got {name!r}")
    return name
