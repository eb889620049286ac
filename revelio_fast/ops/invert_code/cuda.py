"""invert_code by csrc/cuda/invert_code.cu."""

from torch import Tensor

from revelio_fast.ops import checks, cuda_runtime
from revelio_fast.ops.cuda_runtime import dense, unavailable

__all__ = ["invert_code", "unavailable"]


def invert_code(indices: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    checks.indices_in_range(indices, n)
    (indices,) = dense(indices)
    B, k = indices.shape
    offsets, rows, slots = indices.new_empty(n + 1), indices.new_empty(B * k), indices.new_empty(B * k)
    module = cuda_runtime.load()
    space = cuda_runtime.workspace(indices, module.invert_code_workspace(B * k))
    pointers = [t.data_ptr() for t in (indices, offsets, rows, slots, space)]
    module.invert_code(*pointers, B, k, n, *cuda_runtime.place(indices))
    return offsets, rows, slots
