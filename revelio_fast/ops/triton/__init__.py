"""The ops by our Triton kernels: each file holds a kernel, its launch, and the cases to compile ahead of time."""

from revelio_fast.ops.triton.native import INTERPRETED, unavailable

__all__ = ["INTERPRETED", "unavailable"]
