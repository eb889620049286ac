"""top_activations_update_ by csrc/cpu/top_activations_update.cpp."""

from torch import Tensor

from revelio_fast.ops.cpu_runtime import load, threads


def top_activations_update_(state_values: Tensor, values: Tensor, **others: Tensor) -> None:
    """Arguments by name as in reference.py; the kernel takes them under these names."""
    (B, k), (n, m) = values.shape, state_values.shape
    load().top_activations_update(
        state_values=state_values, values=values, **others, B=B, k=k, n=n, m=m, threads=threads()
    )
