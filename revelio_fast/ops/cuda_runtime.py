"""The compiled CUDA kernels, `revelio_fast._cuda`: how they are loaded, whether they can run here, and where they run.

Each takes the fields of its params struct (csrc/params) and of Place (csrc/cuda/kernels.h) as keywords; a tensor
stands for its first element's address.
"""

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


def place(tensor: Tensor) -> dict[str, int]:
    """Where kernels on `tensor` run: its device, torch's current stream. Zeros for CPU tensors, for the tests' shim."""
    if tensor.device.type != "cuda":
        return {"device": 0, "stream": 0}
    return {"device": tensor.device.index, "stream": torch.cuda.current_stream(tensor.device).cuda_stream}


def workspace(like: Tensor, size: int) -> Tensor:
    """`size` bytes on the device of `like`; torch's allocator keeps them for this stream until its work is done."""
    return torch.empty(size, dtype=torch.uint8, device=like.device)
