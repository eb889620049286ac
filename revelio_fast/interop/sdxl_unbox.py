"""sdxl-unbox, and the steering code made from it: a folder of ``config.json`` and ``state_dict.pth``.

OpenAI's names without its layer norm: ``pre_bias``, ``latent_bias``, ``encoder.weight [n, d]``,
``decoder.weight [d, n]``; ReLU after the top k. ``mean.pt`` and ``std.pt``, statistics of latents, are not read.
"""

from __future__ import annotations

from pathlib import Path

import torch

from revelio_fast.atomic import atomic_path, atomic_write_json
from revelio_fast.interop.openai import NAMES, linear_rows, linear_state
from revelio_fast.interop.source import Checkpoint, Given, Source
from revelio_fast.interop.writing import folded, require, whole_k
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.semantics import Semantics

CONFIG, WEIGHTS = FILES = ("config.json", "state_dict.pth")
SETTINGS = ("auxk", "auxk_coef", "dead_steps_threshold")


def recognises(source: Source) -> bool:
    """Whether this is a folder with these weights, or a file of a state_dict with these names."""
    state = source.state.get("state_dict", source.state)
    return source.has(WEIGHTS) or (isinstance(state, dict) and state.keys() >= NAMES and "activation" not in state)


def read(source: Source, given: Given) -> Checkpoint:
    """Read the folder; of the file alone, with the config.json beside it where there is one.

    Raises
    ------
    ValueError
        If it is no such file, or nothing says k.
    """
    file = source.folder / WEIGHTS if source.path.is_dir() else source.path
    saved = source.saved(file.name)
    state = saved.get("state_dict", saved) if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not state.keys() >= NAMES:
        raise ValueError(f"{file} is no autoencoder of sdxl-unbox: expected {', '.join(sorted(NAMES))}; it is "
                         f"{Source(file).describe()}")  # fmt: skip
    config = source.json(CONFIG) if (file.parent / CONFIG).is_file() else {}
    k = given.k if given.k is not None else config.get("k")
    if k is None:
        raise ValueError(f"{file} has no {CONFIG} beside it that says how many latents are active: pass k=")
    metadata = {name: config[name] for name in SETTINGS if name in config}
    return Checkpoint(linear_rows(state), k, Semantics("topk", "after"), str(file), {"sdxl_unbox": metadata})


def write(sae: KSparseAutoencoder, path: Path) -> None:
    """Write the folder that ``SparseAutoencoder.load_from_disk`` reads.

    Raises
    ------
    ValueError
        For an autoencoder without a ReLU, with another rule or a normalised input.
    """
    require(sae, "sdxl_unbox", rules=("topk",), relu=True)
    rows = folded(sae)
    # Their decoder is kept column-major, which is ours row-major: the transpose is saved with its strides.
    state = linear_state(rows.W_enc, rows.W_dec.T, rows.b_enc, rows.b_pre)
    config = {
        "n_dirs_local": sae.n_latents,
        "d_model": sae.d_in,
        "k": whole_k(sae, "sdxl_unbox"),
        "auxk": None,
        "dead_steps_threshold": 1,
        **sae.metadata.get("sdxl_unbox", {}),
    }
    with atomic_path(path / WEIGHTS) as temporary:
        torch.save({"state_dict": state}, temporary)
    atomic_write_json(path / CONFIG, config)
