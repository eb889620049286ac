"""The authors' checkpoint, torch.save of {"cfg", "state_dict"} with other layouts; read without running its pickle."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from revelio_fast.atomic import atomic_path
from revelio_fast.interop.inert_pickle import Inert, read_torch_zip
from revelio_fast.ksae.model import KSparseAutoencoder


def read_official(path: str | os.PathLike[str], *, k: int | None = None) -> KSparseAutoencoder:
    """Read ``final_k_sparse_autoencoder_*.pt``: ``W_enc [d, n]``, ``W_dec [n, d]``, ``b_enc``, ``b_dec`` (our b_pre).

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, is no such checkpoint, holds code, or does not say `k`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    saved = read_torch_zip(path)
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not {"W_enc", "W_dec", "b_enc", "b_dec"} <= state.keys():
        found = sorted(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__
        raise ValueError(
            f"{path} is not a Revelio checkpoint: expected state_dict with W_enc, W_dec, b_enc, b_dec; found {found}"
        )
    active = k if k is not None else _setting(saved.get("cfg"), "k")
    if isinstance(active, bool) or not isinstance(active, int):
        raise ValueError(f"{path} does not say how many latents are active: pass k=")
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        if not isinstance(state[name], Tensor):
            raise ValueError(f"{path} is not a Revelio checkpoint: its {name} is no tensor")
    rows = {
        "W_enc": _transposed(state["W_enc"]),
        "W_dec": state["W_dec"],
        "b_enc": state["b_enc"],
        "b_pre": state["b_dec"],
    }
    return KSparseAutoencoder.from_rows(rows, k=active, relu=False, where=str(path))


def write_official(sae: KSparseAutoencoder, path: str | os.PathLike[str]) -> None:
    """Write a file that the authors' code can load into its module; `cfg` is a plain dictionary."""
    state = {
        "W_enc": sae.W_enc.detach().T.contiguous(),
        "b_enc": sae.b_enc.detach(),
        "W_dec": sae.W_dec.detach(),
        "b_dec": sae.b_pre.detach(),
    }
    cfg = {"k": sae.k, "d_in": sae.d_in, "d_sae": sae.n_latents}
    with atomic_path(path) as temporary:
        torch.save({"cfg": cfg, "state_dict": state}, temporary)


def _setting(cfg: object, name: str) -> object:
    if isinstance(cfg, Inert):
        cfg = cfg.state
    return cfg.get(name) if isinstance(cfg, dict) else None


def _transposed(weights: Tensor) -> Tensor:
    return weights.T if weights.dim() == 2 else weights
