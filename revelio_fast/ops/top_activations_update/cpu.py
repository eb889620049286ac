"""top_activations_update_ by csrc/cpu/top_activations_update.cpp."""

from torch import Tensor

from revelio_fast.ops.cpu_runtime import dense, load, threads, unavailable

__all__ = ["top_activations_update_", "unavailable"]


def top_activations_update_(
    state_values: Tensor, state_image_ids: Tensor, sums: Tensor, counts: Tensor,
    values: Tensor, indices: Tensor, image_ids: Tensor, offsets: Tensor, rows: Tensor, slots: Tensor,
) -> None:  # fmt: skip
    batch = dense(values, indices, image_ids, offsets, rows, slots)
    tensors = (state_values, state_image_ids, sums, counts, *batch)
    (B, k), (n, m) = values.shape, state_values.shape
    load().top_activations_update(*[t.data_ptr() for t in tensors], B, n, m, k, threads())
