"""Diffusion models: families, layer tables, hooks, schedules and prompts."""

from revelio_fast.models.clip_prompts import ZeroShot, zero_shot
from revelio_fast.models.families import (
    FAMILIES,
    OUTPUT,
    Conditioning,
    LayerCost,
    ModelFamily,
    layer_table,
    open_family,
)
from revelio_fast.models.spec import MINI_SD, LayerError, ModelConfig, ModelError, ModelSpec

__all__ = [
    "FAMILIES",
    "MINI_SD",
    "OUTPUT",
    "Conditioning",
    "LayerCost",
    "LayerError",
    "ModelConfig",
    "ModelError",
    "ModelFamily",
    "ModelSpec",
    "ZeroShot",
    "layer_table",
    "open_family",
    "zero_shot",
]
