"""The compiled module, and how tensors are handed to it: dense, as addresses."""

import importlib
from types import ModuleType

import torch
from torch import Tensor


def load() -> ModuleType:
    """The extension; raises ImportError where it was not built."""
    return importlib.import_module("revelio_fast._C")


def isa() -> str:
    """Instruction set whose kernels run: "amx", "avx512bf16", "avx512", "avx2" or "baseline"."""
    return load().isa()


def unavailable() -> str:
    """Why the kernels cannot run here; empty when they can."""
    try:
        isa()
    except ImportError:
        return "the extension revelio_fast._C is not built: pip install --no-build-isolation -e ."
    except RuntimeError as error:
        return str(error)
    return ""


def dense(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Contiguous versions, which must be kept alive while the kernel runs."""
    return tuple(tensor.detach().contiguous() for tensor in tensors)


def addresses(**tensors: Tensor | None) -> dict[str, int]:
    """Name -> address of the first element; absent tensors are left out."""
    return {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}


def threads() -> int:
    """Threads that a kernel may use: torch's current number in this Python thread."""
    return torch.get_num_threads()
