"""Features of diffusion models: image sources, model families, extraction to stores and to feature maps."""

from __future__ import annotations

from revelio_fast.features.clip_prompts import ZeroShot, zero_shot
from revelio_fast.features.crops import RandomCrops
from revelio_fast.features.extractor import FeatureBatch, FeatureExtractor
from revelio_fast.features.families import FAMILIES, OUTPUT, Conditioning, LayerCost, ModelFamily, layer_table
from revelio_fast.features.maps import MapStore, MapStoreError, extract_maps
from revelio_fast.features.preprocess import image_to_tensor
from revelio_fast.features.sources import (
    PAPER_DATASETS,
    BrokenImageError,
    ImageItem,
    ImageSource,
    SourceError,
    open_source,
)
from revelio_fast.features.spec import LayerError, ModelError, ModelSpec
from revelio_fast.features.to_store import extract_to_store

__all__ = [
    "FAMILIES",
    "OUTPUT",
    "PAPER_DATASETS",
    "BrokenImageError",
    "Conditioning",
    "FeatureBatch",
    "FeatureExtractor",
    "ImageItem",
    "ImageSource",
    "LayerCost",
    "LayerError",
    "MapStore",
    "MapStoreError",
    "ModelError",
    "ModelFamily",
    "ModelSpec",
    "RandomCrops",
    "SourceError",
    "ZeroShot",
    "extract_maps",
    "extract_to_store",
    "image_to_tensor",
    "layer_table",
    "open_source",
    "zero_shot",
]
