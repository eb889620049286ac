"""Images: sources of every kind, decoding ahead of the model, preprocessing and random crops."""

from revelio_fast.data.crops import CropConfig, RandomCrops
from revelio_fast.data.errors import BrokenImageError, SourceError
from revelio_fast.data.image_source import NO_LABEL, ImageItem, ImageSource
from revelio_fast.data.paper_datasets import PAPER_DATASETS
from revelio_fast.data.preprocess import image_to_tensor
from revelio_fast.data.resolve import open_source

__all__ = [
    "NO_LABEL",
    "PAPER_DATASETS",
    "BrokenImageError",
    "CropConfig",
    "ImageItem",
    "ImageSource",
    "RandomCrops",
    "SourceError",
    "image_to_tensor",
    "open_source",
]
