"""The ops by our C++ kernels (`revelio_fast._C`): each file hands the addresses of checked tensors to csrc/cpu."""

from revelio_fast.ops.cpu.native import isa, unavailable

__all__ = ["isa", "unavailable"]
