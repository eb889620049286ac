"""OpenAI's sparse_autoencoder: one file of a flat state_dict with the activation's name in it.

``pre_bias [d]``, ``latent_bias [n]``, ``encoder.weight [n, d]``, ``decoder.weight [d, n]``. The activation "TopK" means
layer norm of features and reconstructions, too: a file of this format cannot say one without the other.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revelio_fast.atomic import atomic_path
from revelio_fast.interop.source import PICKLES, Checkpoint, Given, Source
from revelio_fast.interop.writing import folded, require, whole_k
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.semantics import Semantics

FILES = ()
NAMES = {"pre_bias", "latent_bias", "encoder.weight"}


def recognises(source: Source) -> bool:
    """Whether this is a file of a flat dictionary with these names."""
    return source.state.keys() >= NAMES


def read(source: Source, given: Given) -> Checkpoint:
    """Read the file; without an activation it is a plain ReLU, as in ``Autoencoder.from_state_dict``.

    Raises
    ------
    ValueError
        If it is no such file, or has another activation than TopK and ReLU.
    """
    where, state = str(source.path), source.state
    if not state.keys() >= NAMES:
        raise ValueError(f"{where} is no autoencoder of OpenAI: expected {', '.join(sorted(NAMES))}; it is "
                         f"{source.describe()}")  # fmt: skip
    rows = linear_rows(state)
    activation, arguments = state.get("activation", "ReLU"), state.get("activation_state_dict") or {}
    if activation == "TopK":
        relu = {"ReLU": "after", "Identity": "none"}.get(arguments.get("postact_fn", "ReLU"))
        if relu is not None:
            return Checkpoint(rows, arguments.get("k"), Semantics("topk", relu, input_norm="layer_norm"), where)
    if activation == "ReLU":
        rows["threshold"] = torch.zeros_like(rows["b_enc"])
        return Checkpoint(rows, None, Semantics("threshold", "before"), where)
    raise ValueError(f"{where} has the activation {activation} {dict(arguments)}; read are ReLU, and TopK with ReLU or "
                     "Identity after it")  # fmt: skip


def write(sae: KSparseAutoencoder, path: Path) -> None:
    """Write a file that ``Autoencoder.from_state_dict(torch.load(path))`` reads.

    A path that is no ``.pt`` or ``.pth`` is a folder, in which the file is called ``autoencoder.pt``.

    Raises
    ------
    ValueError
        For a top k without layer norm, thresholds other than 0 (a plain ReLU), or other rules.
    """
    how = sae.semantics
    state: dict[str, Any] = OrderedDict()
    if how.rule == "threshold":
        require(sae, "openai", rules=("topk", "threshold"), relu=True)
        if sae.threshold is None or bool((sae.threshold > 0).any()):
            raise ValueError("the format openai has no thresholds: of this rule it can only express a plain ReLU")
        state["activation"] = "ReLU"
    else:
        require(sae, "openai", rules=("topk", "threshold"), relu=None, norms=("layer_norm",))
        arguments = {"k": whole_k(sae, "openai"), "postact_fn": "ReLU" if sae.relu else "Identity"}
        state |= {"activation": "TopK", "activation_state_dict": arguments}
    rows = folded(sae)
    state |= linear_state(rows.W_enc, rows.W_dec.T.contiguous(), rows.b_enc, rows.b_pre)
    state["latents_activation_frequency"] = torch.ones(sae.n_latents)
    state["latents_mean_square"] = torch.zeros(sae.n_latents)
    with atomic_path(path if path.name.endswith(PICKLES) else path / "autoencoder.pt") as temporary:
        torch.save(state, temporary)


def linear_rows(state: dict[str, Any]) -> dict[str, Tensor]:
    """Our rows from these names; a tied decoder is the encoder's."""
    tied = "decoder.weight" not in state
    decoder = state["encoder.weight"] if tied else state["decoder.weight"].T
    return {
        "W_enc": state["encoder.weight"],
        "W_dec": decoder,
        "b_enc": state["latent_bias"],
        "b_pre": state["pre_bias"],
    }


def linear_state(W_enc: Tensor, decoder: Tensor, b_enc: Tensor, b_pre: Tensor) -> dict[str, Tensor]:
    """These names from our rows, with counters of steps as a new model has them."""
    return {
        "pre_bias": b_pre,
        "latent_bias": b_enc,
        "stats_last_nonzero": torch.zeros(len(b_enc), dtype=torch.int64),
        "encoder.weight": W_enc,
        "decoder.weight": decoder,
    }
