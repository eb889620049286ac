"""dictionary_learning: a folder of ``ae.pt`` and ``config.json``, or the file alone where it says enough.

TopK and BatchTopK: ``encoder.weight [n, d]``, ``encoder.bias``, ``decoder.weight [d, n]``, ``b_dec`` (our b_pre), k,
threshold. Matryoshka: ``W_enc [d, n]``, ``W_dec [n, d]``, ``b_enc``, ``b_dec``, k, threshold, group_sizes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revelio_fast.atomic import atomic_path, atomic_write_json
from revelio_fast.interop.source import Checkpoint, Given, Source
from revelio_fast.interop.writing import folded, one_threshold, require, whole_k
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.semantics import Semantics

WEIGHTS = "ae.pt"
FILES = (WEIGHTS, "config.json")
RULES = {"AutoEncoderTopK": "topk", "BatchTopKSAE": "threshold", "MatryoshkaBatchTopKSAE": "threshold"}
LINEAR = {"encoder.weight", "encoder.bias", "decoder.weight", "b_dec"}
GROUPED = {"W_enc", "b_enc", "W_dec", "b_dec", "group_sizes"}


def recognises(source: Source) -> bool:
    """Whether this is a folder with ae.pt, or a file with the names in it."""
    state = source.state
    inner = state.get("ae", state)
    return source.has(WEIGHTS) or (isinstance(inner, dict) and (inner.keys() >= LINEAR or inner.keys() >= GROUPED))


def read(source: Source, given: Given) -> Checkpoint:
    """Read the folder or the file; a backup in the middle of a training too, whose features are scaled.

    The class stands in config.json, beside the file or, of ``checkpoints/ae_*.pt``, beside its folder. A BatchTopK
    autoencoder encodes by its threshold, as its class does; ``rule="batch_topk"`` is how it was trained.

    Raises
    ------
    ValueError
        For another class, a damaged file, or if nothing says which class it is.
    """
    file = source.folder / WEIGHTS if source.path.is_dir() else source.path
    saved = source.saved(file.name)
    config = _config(file)
    scale = 1.0
    if isinstance(saved, dict) and isinstance(saved.get("ae"), dict):
        config = config or saved.get("config") or {}
        scale = 1 / float(saved.get("norm_factor") or 1)
        saved = saved["ae"]
    if not isinstance(saved, dict) or not (saved.keys() >= LINEAR or saved.keys() >= GROUPED):
        raise ValueError(
            f"{file} is no TopK, BatchTopK or Matryoshka autoencoder of dictionary_learning: expected "
            f"{', '.join(sorted(LINEAR))}; it is {Source(file).describe()}"
        )
    kind = "MatryoshkaBatchTopKSAE" if saved.keys() >= GROUPED else config.get("dict_class")
    rule = RULES.get(str(kind)) if kind is not None else given.rule
    if rule is None:
        what = f"has the class {kind}" if kind is not None else "is without a config.json that names its class"
        raise ValueError(
            f"{file} {what}; read are {', '.join(RULES)}. TopK and BatchTopK have the same tensors: without "
            "config.json pass rule='topk' or rule='threshold'"
        )
    groups = tuple(saved["group_sizes"].tolist()) if "group_sizes" in saved else ()
    semantics = Semantics(rule, "none" if rule == "abs_topk" else "before", input_scale=scale, groups=groups)
    k = int(saved["k"]) if isinstance(saved.get("k"), Tensor) else config.get("k")
    return Checkpoint(_rows(saved), k, semantics, str(file), {"dictionary_learning": config} if config else {})


def write(sae: KSparseAutoencoder, path: Path) -> None:
    """Write the folder that ``load_dictionary`` reads.

    Raises
    ------
    ValueError
        For an autoencoder without a ReLU, with other rules, a normalised input, or different thresholds of latents.
    """
    how = sae.semantics
    require(sae, "dictionary_learning", rules=("topk", "threshold"), relu=True)
    k, rows = whole_k(sae, "dictionary_learning"), folded(sae)
    kind = "AutoEncoderTopK" if how.rule == "topk" else "MatryoshkaBatchTopKSAE" if how.groups else "BatchTopKSAE"
    used = how.rule == "threshold" or sae.threshold is not None
    threshold = one_threshold(sae, "dictionary_learning") if used else -1.0
    state = {"k": torch.tensor(k, dtype=torch.int), "threshold": torch.tensor(threshold)}
    if kind == "MatryoshkaBatchTopKSAE":
        state |= {"W_enc": rows.W_enc.T.contiguous(), "b_enc": rows.b_enc, "W_dec": rows.W_dec, "b_dec": rows.b_pre}
        state["group_sizes"] = torch.tensor(how.groups)
    else:
        state |= {"encoder.weight": rows.W_enc, "encoder.bias": rows.b_enc, "b_dec": rows.b_pre}
        state["decoder.weight"] = rows.W_dec.T.contiguous()
    trainer = {
        **sae.metadata.get("dictionary_learning", {}),
        "dict_class": kind,
        "activation_dim": sae.d_in,
        "dict_size": sae.n_latents,
        "k": k,
    }
    with atomic_path(path / WEIGHTS) as temporary:
        torch.save(state, temporary)
    atomic_write_json(path / "config.json", {"trainer": trainer})


def _config(file: Path) -> dict[str, Any]:
    """The trainer's settings beside a file; empty where there are none."""
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8"))["trainer"])
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} is no config.json of dictionary_learning ({error!r})") from error


def _rows(saved: dict[str, Tensor]) -> dict[str, Tensor]:
    if "W_enc" in saved:
        rows = {"W_enc": saved["W_enc"].T, "W_dec": saved["W_dec"], "b_enc": saved["b_enc"], "b_pre": saved["b_dec"]}
    else:
        rows = {
            "W_enc": saved["encoder.weight"],
            "W_dec": saved["decoder.weight"].T,
            "b_enc": saved["encoder.bias"],
            "b_pre": saved["b_dec"],
        }
    threshold = saved.get("threshold")
    if isinstance(threshold, Tensor) and (threshold.numel() == 1):
        rows["threshold"] = torch.full_like(rows["b_enc"].float(), threshold.item())
    return rows
