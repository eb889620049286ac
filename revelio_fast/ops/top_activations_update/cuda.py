"""top_activations_update_ by csrc/cuda/top_activations_update.cu."""

from torch import Tensor

from revelio_fast.ops import checks, cuda_runtime


def top_activations_update_(state_values: Tensor, values: Tensor, indices: Tensor, **others: Tensor) -> None:
    """Arguments by name as in reference.py; the kernel takes them under these names."""
    (B, k), (n, m) = values.shape, state_values.shape
    checks.indices_in_range(indices, n)
    cuda_runtime.load().top_activations_update(
        state_values=state_values, values=values, indices=indices, **others, B=B, k=k, n=n, m=m,
        **cuda_runtime.place(values),
    )  # fmt: skip
