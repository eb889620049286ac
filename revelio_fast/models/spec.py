"""What an extractor is asked for: its model, layers, timesteps and precision, checked; and the errors of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}


class ModelError(ValueError):
    """A model cannot be loaded or used as asked; the message says why and what to give instead."""


class LayerError(ModelError):
    """A layer does not exist; the message lists those that do, with their shapes."""


class ModelSpec(NamedTuple):
    """What an extractor was asked for; see `FeatureExtractor.from_pretrained`."""

    model: str
    layers: tuple[str, ...]
    image_size: int | None
    dtype: torch.dtype
    device: torch.device
    seed: int
    random_weights: bool
    revision: str | None
    official: bool = False
    compile: bool = False


def checked_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype or torch.float32
    if found is None or found not in DTYPES.values():
        raise ModelError(f"dtype must be float32, bf16 or fp16, got {dtype!r}.")
    return found


def checked_timesteps(timesteps: Sequence[int], count: int) -> tuple[int, ...]:
    if isinstance(timesteps, int) or not len(timesteps):
        raise ModelError(f"timesteps must be a list of at least one timestep, got {timesteps!r}.")
    for timestep in timesteps:
        if isinstance(timestep, bool) or int(timestep) != timestep or not 0 <= timestep < count:
            raise ModelError(f"timestep {timestep!r} does not exist: this model has 0 to {count - 1}.")
    refuse_repeats("timesteps", timesteps)
    return tuple(int(timestep) for timestep in timesteps)


def refuse_repeats(name: str, values: Sequence[Any]) -> None:
    repeated = [value for value in values if list(values).count(value) > 1]
    if repeated:
        raise ModelError(f"{name} names {repeated[0]!r} twice.")
