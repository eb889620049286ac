"""The compiled CPU kernels, `revelio_fast._C`: how they are loaded, and whether they can run here.

Each takes the fields of its params struct (csrc/params) as keywords; a tensor stands for its first element's address.
"""

import importlib
from types import ModuleType

import torch


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


def threads() -> int:
    """Threads that a kernel may use: torch's current number in this Python thread."""
    return torch.get_num_threads()
