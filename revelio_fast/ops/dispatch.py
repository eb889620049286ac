"""Which code runs an op: one table, one rule, and the reasons when a backend cannot run here.

An implementation of op ``o`` by backend ``b`` is the function ``o`` in ``revelio_fast/ops/<o>/<b>.py`` (backend
"torch" in ``reference.py``). Chosen automatically, a backend that fails is dropped with one warning and the next
one takes over; asked for with `use_backend` or ``REVELIO_BACKEND``, it raises.
"""

import contextlib
import contextvars
import importlib
import os
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

BACKENDS = ("torch", "cpu", "triton", "cuda")

# op -> device type -> backends in order of preference
TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "topk_encode": {"cpu": ("cpu", "torch"), "cuda": ("triton", "torch")},
    "sparse_decode": {"cpu": ("cpu", "torch"), "cuda": ("triton", "torch")},
    "sparse_residual": {"cpu": ("cpu", "torch"), "cuda": ("triton", "torch")},
    "invert_code": {"cpu": ("cpu", "torch"), "cuda": ("cuda", "torch")},
    "sparse_backward": {"cpu": ("cpu", "torch"), "cuda": ("cuda", "torch")},
    "decode_backward": {"cpu": ("cpu", "torch"), "cuda": ("cuda", "torch")},
    "encode_backward": {"cpu": ("cpu", "torch"), "cuda": ("cuda", "torch")},
    "adam_unit_norm_step_": {"cpu": ("cpu", "torch"), "cuda": ("cuda", "torch")},
    "top_activations_update_": {"cpu": ("cpu", "torch"), "cuda": ("cuda", "torch")},
}

# the two halves of sparse_backward, used by autograd, live beside it
MODULE = {"decode_backward": "sparse_backward", "encode_backward": "sparse_backward"}


class BackendError(RuntimeError):
    """A backend cannot run an op here; the message says why and what to do."""


class BackendStatus(NamedTuple):
    """One line of the table of `backends`: `reason` is empty when the implementation can run here."""

    op: str
    device: str
    backend: str
    reason: str


# GPU backends that take CPU tensors in this process: "triton" in its interpreter, "cuda" on the tests' host shim
on_host: set[str] = {"triton"} if os.environ.get("TRITON_INTERPRET") == "1" else set()

_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("revelio_backend", default=None)
_dropped: dict[tuple[str, str], str] = {}


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op of the block by one backend, or raise `BackendError` where it cannot.

    Parameters
    ----------
    name : {"torch", "cpu", "triton", "cuda"}
        "torch" is the reference and runs on any device.

    Raises
    ------
    ValueError
        For any other name.
    """
    token = _chosen.set(_known(name, "use_backend"))
    try:
        yield
    finally:
        _chosen.reset(token)


def backends() -> list[BackendStatus]:
    """Every implementation in order of preference, with the reason when it cannot run on this machine."""
    return [
        BackendStatus(op, device, backend, _dropped.get((op, backend)) or _load(op, backend)[1])
        for op, by_device in TABLE.items()
        for device, names in by_device.items()
        for backend in names
    ]


def chosen(op: str, device: str) -> str:
    """The backend that `op` would run by for tensors on `device`, if it does not fail."""
    asked = _chosen.get() or _from_environment()
    return asked or next((backend for backend, _ in _able(op, device)), "torch")


def call(op: str, device: str, *arguments: Any) -> Any:
    """Run `op` for tensors on `device` (a torch device type) with the chosen or best backend."""
    asked = _chosen.get() or _from_environment()
    if asked and op in MODULE and not any(asked in names for names in TABLE[op].values()):
        # nobody names a half: it is autograd's, of an op whose forward pass the chosen backend has run
        asked = None
    if asked:
        function, reason = _load(op, asked)
        if asked not in TABLE[op].get(device, ("torch",)) and not (
            asked in on_host and device == "cpu" and asked in TABLE[op]["cuda"]
        ):
            reason = f"it does not run on {device} tensors"
        if function is None or reason:
            raise BackendError(f"backend {asked!r} cannot run {op}: {reason}. `revelio-fast doctor` lists what can.")
        return function(*arguments)
    for backend, function in _able(op, device):
        try:
            return function(*arguments)
        except BackendError as error:
            _drop(op, backend, error)
        except RuntimeError as error:
            # An in-place op may have changed its arguments already: running it again would apply the step twice.
            if op.endswith("_") or backend == "torch":
                raise
            _drop(op, backend, error)
    raise BackendError(f"no backend can run {op} on {device} tensors. `revelio-fast doctor` says why.")


def _able(op: str, device: str) -> Iterator[tuple[str, Any]]:
    """Backends that can run `op`, in order of preference, with their functions."""
    for backend in TABLE[op].get(device, ("torch",)):
        if (op, backend) not in _dropped:
            function, reason = _load(op, backend)
            if function is not None and not reason:
                yield backend, function


def _load(op: str, backend: str) -> tuple[Any, str]:
    folder, name = MODULE.get(op, op.rstrip("_")), "reference" if backend == "torch" else backend
    try:
        module = importlib.import_module(f"revelio_fast.ops.{folder}.{name}")
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.startswith("revelio_fast.ops."):
            return None, f"not implemented by {backend!r}"
        return None, f"needs the module {missing}, which is not installed or not built"
    except (ImportError, OSError) as error:
        return None, str(error)
    unavailable = getattr(module, "unavailable", None)
    function = getattr(module, op, None)
    if function is None:
        return None, f"not implemented by {backend!r}"
    return function, (unavailable() or "") if unavailable else ""


def _drop(op: str, backend: str, error: Exception) -> None:
    _dropped[op, backend] = f"failed in this process: {error}"
    warnings.warn(
        f"backend {backend!r} failed to run {op} ({error}); using the next one. "
        f"Force it with use_backend({backend!r}) to see the error.",
        RuntimeWarning,
        stacklevel=4,
    )


def _from_environment() -> str | None:
    name = os.environ.get("REVELIO_BACKEND", "")
    return _known(name, "REVELIO_BACKEND") if name and name != "auto" else None


def _known(name: str, where: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{where} must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    return name
