"""Classifying images: trained classifiers on new images, training with fresh crops, and zero-shot by denoising."""

from revelio_fast.classify.features import extractor_of, feature_record
from revelio_fast.classify.image_classifier import ImageClassifier, load_classifier
from revelio_fast.classify.online import OnlineMaps, cached_training_maps, labelled, train_diffc_online
from revelio_fast.classify.predictions import Classified, PredictionLog, matched_labels
from revelio_fast.classify.zero_shot import DenoisingErrors, Pruning, ZeroShotClassifier, class_prompts

__all__ = [
    "Classified",
    "DenoisingErrors",
    "ImageClassifier",
    "OnlineMaps",
    "PredictionLog",
    "Pruning",
    "ZeroShotClassifier",
    "cached_training_maps",
    "class_prompts",
    "extractor_of",
    "feature_record",
    "labelled",
    "load_classifier",
    "matched_labels",
    "train_diffc_online",
]
