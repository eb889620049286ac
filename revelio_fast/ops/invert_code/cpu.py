"""invert_code by csrc/cpu/invert_code.cpp."""

from torch import Tensor

from revelio_fast.ops.cpu_runtime import dense, load, unavailable

__all__ = ["invert_code", "unavailable"]


def invert_code(indices: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    (indices,) = dense(indices)
    B, k = indices.shape
    offsets, rows, slots = indices.new_empty(n + 1), indices.new_empty(B * k), indices.new_empty(B * k)
    load().invert_code(indices.data_ptr(), B, k, n, offsets.data_ptr(), rows.data_ptr(), slots.data_ptr())
    return offsets, rows, slots
