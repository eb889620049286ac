"""Classifiers: Diff-C and its baseline heads on feature maps, saved ones on new images, zero-shot by denoising."""

from revelio_fast.classifiers.config import DiffCConfig
from revelio_fast.classifiers.feature_record import extractor_of, feature_record
from revelio_fast.classifiers.heads import DiffC, ResNetHead
from revelio_fast.classifiers.image_classifier import ImageClassifier, load_classifier
from revelio_fast.classifiers.map_classifier import MapClassifier, Prediction
from revelio_fast.classifiers.map_source import CachedMaps, MapSource
from revelio_fast.classifiers.online import OnlineMaps, cached_training_maps, labelled, train_diffc_online
from revelio_fast.classifiers.predictions import Classified, PredictionLog, matched_labels
from revelio_fast.classifiers.results import DiffCResult, EpochRecord, confusion_matrix
from revelio_fast.classifiers.training import train_diffc, train_on
from revelio_fast.classifiers.zero_shot import DenoisingErrors, Pruning, ZeroShotClassifier, class_prompts

__all__ = [
    "CachedMaps",
    "Classified",
    "DenoisingErrors",
    "DiffC",
    "DiffCConfig",
    "DiffCResult",
    "EpochRecord",
    "ImageClassifier",
    "MapClassifier",
    "MapSource",
    "OnlineMaps",
    "Prediction",
    "PredictionLog",
    "Pruning",
    "ResNetHead",
    "ZeroShotClassifier",
    "cached_training_maps",
    "class_prompts",
    "confusion_matrix",
    "extractor_of",
    "feature_record",
    "labelled",
    "load_classifier",
    "matched_labels",
    "train_diffc",
    "train_diffc_online",
    "train_on",
]
