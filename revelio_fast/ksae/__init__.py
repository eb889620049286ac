"""The k-sparse autoencoder: model, training, checkpoints, and other libraries' formats."""

from revelio_fast.ksae.config import KSAEConfig
from revelio_fast.ksae.formats import load_sae
from revelio_fast.ksae.model import KSAEOutput, KSparseAutoencoder
from revelio_fast.ksae.train import KSAEResult, train_ksae

__all__ = ["KSAEConfig", "KSAEOutput", "KSAEResult", "KSparseAutoencoder", "load_sae", "train_ksae"]
