"""`load_sae`: a k-SAE from any file or folder that one of the formats reads."""

from __future__ import annotations

import os
from pathlib import Path

from revelio_fast.interop.official import read_official
from revelio_fast.ksae.model import KSparseAutoencoder


def load_sae(path: str | os.PathLike[str], *, k: int | None = None) -> KSparseAutoencoder:
    """Read a k-SAE from our folder (or a run's `out_dir`, or its weights file), the Hub, or the authors' ``.pt`` file.

    Parameters
    ----------
    path : path or str
        A folder, ``model.safetensors`` in one, ``owner/name`` on the Hub, or a file ending in .pt or .pth.
    k : int, optional
        For a ``.pt`` file whose settings do not say k.

    Raises
    ------
    ValueError
        For a file of another kind, or one that would execute code when unpickled.
    """
    path = Path(path)
    if path.is_dir():
        return KSparseAutoencoder.from_pretrained(path / "model" if (path / "model").is_dir() else path)
    if path.name == "model.safetensors" and path.is_file():
        return KSparseAutoencoder.from_pretrained(path.parent)
    if path.suffix in (".pt", ".pth"):
        return read_official(path, k=k)
    if path.exists():
        raise ValueError(
            f"{path} is not a k-SAE that can be read: expected a folder with model.safetensors, or a .pt file of the "
            "authors' code (their .pkl.gz variant is a bare pickle: load it with their code and torch.save it)"
        )
    return KSparseAutoencoder.from_pretrained(os.fspath(path))
