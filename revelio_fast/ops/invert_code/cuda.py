"""invert_code by csrc/cuda/invert_code.cu."""

from torch import Tensor

from revelio_fast.ops import checks, cuda_runtime


def invert_code(indices: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    checks.indices_in_range(indices, n)
    B, k = indices.shape
    offsets, rows, slots = indices.new_empty(n + 1), indices.new_empty(B * k), indices.new_empty(B * k)
    module = cuda_runtime.load()
    space = cuda_runtime.workspace(indices, module.invert_code_workspace(B * k))
    module.invert_code(
        indices=indices, offsets=offsets, rows=rows, slots=slots, B=B, k=k, n=n,
        workspace=space, **cuda_runtime.place(indices),
    )  # fmt: skip
    return offsets, rows, slots
