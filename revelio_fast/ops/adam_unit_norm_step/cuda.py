"""adam_unit_norm_step_ by csrc/cuda/adam_unit_norm_step.cu."""

from typing import Any

from revelio_fast.ops import checks, cuda_runtime


def adam_unit_norm_step_(**arguments: Any) -> None:
    """Arguments by name as in reference.py; the kernel takes them under these names."""
    indices, (n, d) = arguments["indices"], arguments["W_dec"].shape
    checks.indices_in_range(indices, n)
    skip_mask = arguments.pop("skip_mask")
    if skip_mask is not None:
        skip_mask.index_fill_(0, indices.flatten(), 0)  # nothing is skipped here
    B, k = indices.shape
    module = cuda_runtime.load()
    space = cuda_runtime.workspace(indices, module.sparse_backward_workspace(B * k, n, d))
    module.adam_unit_norm_step(**arguments, B=B, k=k, n=n, d=d, workspace=space, **cuda_runtime.place(indices))
