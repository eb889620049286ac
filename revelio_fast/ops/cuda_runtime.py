"""The compiled CUDA module, and where its kernels run: on the device of the tensors, in torch's current stream."""

import importlib
from types import ModuleType

import torch
from torch import Tensor


def load() -> ModuleType:
    """The extension; raises ImportError where it was not built."""
    return importlib.import_module("revelio_fast._cuda")


def unavailable() -> str:
    """Why the kernels cannot run here; empty when they can."""
    try:
        module = load()
    except ImportError:
        return "the extension revelio_fast._cuda is not built: install with nvcc on the PATH and REVELIO_CUDA=ON"
    return "" if module.device_count() else "this machine has no CUDA device, or no driver for it"


def place(tensor: Tensor) -> tuple[int, int]:
    """Device index and stream handle for kernels on `tensor`; (0, 0) for CPU tensors, which the tests' shim takes."""
    if tensor.device.type != "cuda":
        return 0, 0
    return tensor.device.index, torch.cuda.current_stream(tensor.device).cuda_stream


def workspace(like: Tensor, size: int) -> Tensor:
    """`size` bytes on the device of `like`; torch's allocator keeps them for this stream until its work is done."""
    return torch.empty(size, dtype=torch.uint8, device=like.device)


def dense(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Contiguous versions, which must be kept alive until the kernels are launched."""
    return tuple(tensor.detach().contiguous() for tensor in tensors)


def addresses(**tensors: Tensor | None) -> dict[str, int]:
    """Name -> address of the first element; absent tensors are left out."""
    return {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}
