"""Diff-C: the paper's convolutional classifier on diffusion feature maps (section 4 and Table 10)."""

from revelio_fast.diffc.config import DiffCConfig
from revelio_fast.diffc.model import DiffC, Prediction
from revelio_fast.diffc.results import DiffCResult, EpochRecord, accuracy_interval
from revelio_fast.diffc.train import train_diffc

__all__ = ["DiffC", "DiffCConfig", "DiffCResult", "EpochRecord", "Prediction", "accuracy_interval", "train_diffc"]
