"""invert_code by csrc/cpu/invert_code.cpp."""

from torch import Tensor

from revelio_fast.ops.cpu_runtime import load


def invert_code(indices: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    B, k = indices.shape
    offsets, rows, slots = indices.new_empty(n + 1), indices.new_empty(B * k), indices.new_empty(B * k)
    load().invert_code(indices=indices, offsets=offsets, rows=rows, slots=slots, B=B, k=k, n=n)
    return offsets, rows, slots
