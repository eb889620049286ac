"""The k-sparse autoencoder: model, settings, engines, training and checkpoints."""

from revelio_fast.ksae.config import KSAEConfig
from revelio_fast.ksae.model import KSAEOutput, KSparseAutoencoder
from revelio_fast.ksae.semantics import Semantics
from revelio_fast.ksae.train import KSAEResult, train_ksae

__all__ = ["KSAEConfig", "KSAEOutput", "KSAEResult", "KSparseAutoencoder", "Semantics", "train_ksae"]
