"""The authors' checkpoint, ``.pt`` or ``.pkl.gz``: {"cfg", "state_dict"}; read without running its pickle.

``W_enc [d, n]``, ``W_dec [n, d]``, ``b_enc``, ``b_dec`` (our b_pre); no ReLU, and k in the settings object.
"""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revelio_fast.atomic import atomic_path
from revelio_fast.interop.inert_pickle import Inert
from revelio_fast.interop.source import PICKLES, Checkpoint, Given, Source
from revelio_fast.interop.writing import folded, require, whole_k
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.semantics import Semantics

FILES = ()
NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")


def recognises(source: Source) -> bool:
    """Whether this is a file of a state_dict with the authors' names."""
    state = source.state.get("state_dict")
    return isinstance(state, dict) and state.keys() >= set(NAMES)


def read(source: Source, given: Given) -> Checkpoint:
    """Read the file.

    Raises
    ------
    ValueError
        If it is no such checkpoint, holds code, or does not say k.
    """
    where = str(source.path)
    state = source.state.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(state.get(name), Tensor) for name in NAMES):
        raise ValueError(
            f"{where} is not a Revelio checkpoint: expected state_dict with the tensors {', '.join(NAMES)}; it is "
            f"{source.describe()}"
        )
    k = given.k if given.k is not None else _setting(source.state.get("cfg"), "k")
    if isinstance(k, bool) or not isinstance(k, int):
        raise ValueError(f"{where} does not say how many latents are active: pass k=")
    W_enc = state["W_enc"].T if state["W_enc"].dim() == 2 else state["W_enc"]
    rows = {"W_enc": W_enc, "W_dec": state["W_dec"], "b_enc": state["b_enc"], "b_pre": state["b_dec"]}
    return Checkpoint(rows, k, Semantics(), where)


def write(sae: KSparseAutoencoder, path: Path) -> None:
    """Write a file that the authors' code can load into its module; `cfg` is a plain dictionary.

    A path that is no ``.pt``, ``.pth`` or ``.pkl.gz`` is a folder, in which the file is called ``sae.pt``.

    Raises
    ------
    ValueError
        For an autoencoder with a ReLU or another rule, which theirs does not have.
    """
    require(sae, "authors", rules=("topk",), relu=False)
    rows = folded(sae)
    state = {"W_enc": rows.W_enc.T.contiguous(), "b_enc": rows.b_enc, "W_dec": rows.W_dec, "b_dec": rows.b_pre}
    cfg = {"k": whole_k(sae, "authors"), "d_in": sae.d_in, "d_sae": sae.n_latents}
    with atomic_path(path if path.name.endswith(PICKLES) else path / "sae.pt") as temporary:
        saved: dict[str, Any] = {"cfg": cfg, "state_dict": state}
        if path.name.endswith(".gz"):
            with gzip.open(temporary, "wb") as file:
                pickle.dump(saved, file)
        else:
            torch.save(saved, temporary)


def read_official(path: str | os.PathLike[str], *, k: int | None = None) -> KSparseAutoencoder:
    """``KSparseAutoencoder.from_pretrained(path, format="authors", k=k)``."""
    return KSparseAutoencoder.from_pretrained(path, format="authors", k=k)


def write_official(sae: KSparseAutoencoder, path: str | os.PathLike[str]) -> None:
    """``sae.save_as(path, "authors")``."""
    sae.save_as(path, "authors")


def _setting(cfg: object, name: str) -> object:
    if isinstance(cfg, Inert):
        cfg = cfg.state
    return cfg.get(name) if isinstance(cfg, dict) else None
