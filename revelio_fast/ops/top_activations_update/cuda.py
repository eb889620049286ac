"""top_activations_update_ by csrc/cuda/top_activations_update.cu."""

from torch import Tensor

from revelio_fast.ops import checks, cuda_runtime
from revelio_fast.ops.cuda_runtime import dense, unavailable

__all__ = ["top_activations_update_", "unavailable"]


def top_activations_update_(
    state_values: Tensor, state_image_ids: Tensor, sums: Tensor, counts: Tensor,
    values: Tensor, indices: Tensor, image_ids: Tensor, offsets: Tensor, rows: Tensor, slots: Tensor,
) -> None:  # fmt: skip
    n, m = state_values.shape
    checks.indices_in_range(indices, n)
    batch = dense(values, image_ids, offsets, rows, slots)
    pointers = [t.data_ptr() for t in (state_values, state_image_ids, sums, counts, *batch)]
    cuda_runtime.load().top_activations_update(*pointers, n, m, values.shape[1], *cuda_runtime.place(values))
