"""Diffusion models: families, layer tables, hooks, schedules and prompts."""

from revelio_fast.models.clip_prompts import ZeroShot, zero_shot
from revelio_fast.models.families import FAMILIES, OUTPUT, Conditioning, LayerCost, ModelFamily, layer_table
from revelio_fast.models.spec import LayerError, ModelError, ModelSpec

__all__ = [
    "FAMILIES",
    "OUTPUT",
    "Conditioning",
    "LayerCost",
    "LayerError",
    "ModelError",
    "ModelFamily",
    "ModelSpec",
    "ZeroShot",
    "layer_table",
    "zero_shot",
]
