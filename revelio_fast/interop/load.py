"""`load_sae`: the function beside `KSparseAutoencoder.from_pretrained`."""

from __future__ import annotations

import os
from typing import Any

from revelio_fast.ksae.model import KSparseAutoencoder


def load_sae(path: str | os.PathLike[str], **options: Any) -> KSparseAutoencoder:
    """Read an autoencoder: ``KSparseAutoencoder.from_pretrained(path, **options)``."""
    return KSparseAutoencoder.from_pretrained(path, **options)
