"""Extraction: diffusion features of images, streamed, or kept in stores and map stores."""

from revelio_fast.features.config import ExtractConfig
from revelio_fast.features.extractor import FeatureBatch, FeatureExtractor
from revelio_fast.features.maps import MapStore, MapStoreError, extract_maps
from revelio_fast.features.to_store import extract_to_store

__all__ = [
    "ExtractConfig",
    "FeatureBatch",
    "FeatureExtractor",
    "MapStore",
    "MapStoreError",
    "extract_maps",
    "extract_to_store",
]
