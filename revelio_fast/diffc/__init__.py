"""Diff-C: the paper's convolutional classifier on diffusion feature maps (section 4 and Table 10)."""

from revelio_fast.diffc.classifier import MapClassifier, Prediction
from revelio_fast.diffc.config import DiffCConfig
from revelio_fast.diffc.data import CachedMaps, MapSource
from revelio_fast.diffc.model import DiffC, ResNetHead
from revelio_fast.diffc.results import DiffCResult, EpochRecord, accuracy_interval, confusion_matrix
from revelio_fast.diffc.train import train_diffc, train_on

__all__ = [
    "CachedMaps",
    "DiffC",
    "DiffCConfig",
    "DiffCResult",
    "EpochRecord",
    "MapClassifier",
    "MapSource",
    "Prediction",
    "ResNetHead",
    "accuracy_interval",
    "confusion_matrix",
    "train_diffc",
    "train_on",
]
