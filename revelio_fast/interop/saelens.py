"""SAELens: a folder of ``cfg.json`` and ``sae_weights.safetensors``, of version 6 and, to read, those before it.

Its names transposed: ``W_enc [d, n]``, ``W_dec [n, d]``, ``b_enc``, ``b_dec`` (our b_pre), ``threshold``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from revelio_fast.atomic import atomic_path, atomic_write_json
from revelio_fast.interop.source import Checkpoint, Given, Source
from revelio_fast.interop.writing import folded, one_threshold, require, whole_k
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.semantics import Semantics

CONFIG, WEIGHTS, SCALER = FILES = ("cfg.json", "sae_weights.safetensors", "activation_scaler.json")
RULES = {  # architecture -> rule, and ReLU
    "topk": ("topk", "after"),
    "abstopk": ("abs_topk", "none"),
    "jumprelu": ("threshold", "before"),
    "standard": ("threshold", "before"),
    "batchtopk": ("batch_topk", "before"),
    "matryoshka_batchtopk": ("batch_topk", "before"),
}
NORMS = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "rms_norm"}
# What cfg.json said flatly before version 6 and says in `metadata` since.
OLD_METADATA = ("model_name", "hook_name", "hook_point", "hook_layer", "hook_head_index", "dataset_path",
                "context_size", "prepend_bos", "neuronpedia_id", "sae_lens_training_version")  # fmt: skip


def recognises(source: Source) -> bool:
    """Whether this is a folder with SAELens' weights."""
    return source.has(WEIGHTS)


def read(source: Source, given: Given) -> Checkpoint:
    """Read the folder; a checkpoint of a BatchTopK training has the rule "batch_topk" and its threshold beside it.

    Raises
    ------
    ValueError
        For an architecture, activation or normalisation that `Semantics` has no words for, or a damaged file.
    """
    where = str(source.folder)
    cfg, rows = source.json(CONFIG), source.tensors(WEIGHTS)
    architecture, k = _architecture(cfg, where)
    if architecture not in RULES:
        raise ValueError(f"{where} has the architecture {architecture!r}; read are {', '.join(RULES)}")
    rule, relu = RULES[architecture]
    widths = cfg.get("matryoshka_widths") or []
    semantics = Semantics(
        rule,
        relu,
        subtract_b_pre=bool(cfg.get("apply_b_dec_to_input", True)),
        input_norm=_norm(cfg, where),
        input_scale=_scale(source, cfg),
        rescale_by_decoder_norm=bool(cfg.get("rescale_acts_by_decoder_norm", False)),
        groups=tuple(b - a for a, b in zip([0, *widths], widths, strict=False)),
    )
    factor = rows.get("scaling_factor")
    if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
        raise ValueError(f"{where} was fine-tuned with scaling factors, which SAELens 6 does not read either")
    names = {"W_enc": "W_enc", "W_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_pre", "threshold": "threshold"}
    found = {ours: rows[theirs] for theirs, ours in names.items() if theirs in rows}
    if found.get("W_enc", torch.empty(0)).dim() == 2:
        found["W_enc"] = found["W_enc"].T
    if "b_enc" in found:
        found |= _threshold(architecture, rows, found["b_enc"])
    metadata = cfg.get("metadata") or {name: cfg[name] for name in OLD_METADATA if cfg.get(name) is not None}
    return Checkpoint(found, k, semantics, where, {"saelens": metadata} if metadata else {})


def write(sae: KSparseAutoencoder, path: Path) -> None:
    """Write the folder that ``SAE.load_from_disk`` reads; of the rule "batch_topk" ``TrainingSAE.load_from_disk`` does.

    Raises
    ------
    ValueError
        For a top k without a ReLU, which SAELens does not have.
    """
    how = sae.semantics
    signed = how.rule == "abs_topk"
    require(
        sae,
        "saelens",
        rules=("topk", "abs_topk", "threshold", "batch_topk"),
        relu=not signed,
        norms=("none", "layer_norm", "rms_norm"),
    )
    top = how.rule in ("topk", "abs_topk")
    rescale = how.rescale_by_decoder_norm and how.input_scale == 1 and how.rule != "threshold"
    rows = folded(sae, rescale=not rescale, centring=False)
    tensors = {"W_enc": rows.W_enc.T, "W_dec": rows.W_dec, "b_enc": rows.b_enc, "b_dec": rows.b_pre}
    cfg: dict[str, Any] = {
        "d_in": sae.d_in,
        "d_sae": sae.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": how.subtract_b_pre,
        "normalize_activations": {ours: theirs for theirs, ours in NORMS.items()}[how.input_norm],
        "reshape_activations": "none",
        # The layout below is that of version 6; without a version SAELens takes it for an older one.
        "metadata": {"sae_lens_version": "6.0.0", **sae.metadata.get("saelens", {})},
    }
    if how.rule == "threshold":
        assert sae.threshold is not None, "a threshold rule without thresholds"
        cfg["architecture"] = "jumprelu"
        tensors["threshold"] = sae.threshold.detach().cpu()
    else:
        cfg["architecture"] = {"topk": "topk", "abs_topk": "abstopk"}.get(how.rule, "batchtopk")
        cfg["k"] = whole_k(sae, "saelens") if top else float(sae.k)
        cfg["rescale_acts_by_decoder_norm"] = rescale
    if how.rule == "batch_topk":
        unset = sae.threshold is None  # SAELens' own initial value is 0
        tensors["topk_threshold"] = torch.tensor(0.0 if unset else one_threshold(sae, "saelens"), dtype=torch.float64)
        if how.groups:
            widths = torch.tensor(how.groups).cumsum(0).tolist()
            cfg |= {"architecture": "matryoshka_batchtopk", "matryoshka_widths": widths}
    with atomic_path(path / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    atomic_write_json(path / CONFIG, cfg)


def _architecture(cfg: dict[str, Any], where: str) -> tuple[str, float | None]:
    """Name and k, also of versions before 6, where a "standard" architecture had an activation function."""
    architecture, k = str(cfg.get("architecture", "standard")), cfg.get("k")
    activation = cfg.get("activation_fn_str", cfg.get("activation_fn", "relu"))
    arguments = cfg.get("activation_fn_kwargs") or {}
    if activation == "topk" and "k" in arguments:
        return "topk", arguments["k"]
    if architecture == "standard" and activation != "relu":
        raise ValueError(f"{where} has the activation function {activation!r}; read are relu, and topk with its k")
    return architecture, k if isinstance(k, int | float) else None


def _norm(cfg: dict[str, Any], where: str) -> str:
    norm = cfg.get("normalize_activations") or "none"
    if cfg.get("reshape_activations") == "hook_z" or (
        "reshape_activations" not in cfg and "hook_z" in str(cfg.get("hook_name", cfg.get("hook_point", "")))
    ):
        raise ValueError(
            f"{where} reads attention outputs head by head (hook_z), and features here are vectors: flatten the heads, "
            'and set "reshape_activations" to "none" in its cfg.json'
        )
    if norm in (True, "expected_average_only_in"):
        return "none"
    if norm not in NORMS:
        raise ValueError(
            f"{where} normalises activations by {norm!r}; read are {', '.join(NORMS)}, and what SAELens folds into the "
            "weights when a training ends"
        )
    return NORMS[norm]


def _scale(source: Source, cfg: dict[str, Any]) -> float:
    """Factor of the features: in checkpoints in the middle of a training it stands in a file of its own."""
    factor = source.json(SCALER).get("scaling_factor") if source.has(SCALER) else None
    if factor is not None:
        return float(factor)
    if cfg.get("normalize_activations") in (True, "expected_average_only_in"):
        warnings.warn(
            f"{source.folder} was trained on features scaled to norm sqrt(d) on average, and does not say by which "
            "factor: features are taken as they are, as SAELens does, so scale them yourself",
            stacklevel=4,
        )
    return 1.0


def _threshold(architecture: str, rows: dict[str, Tensor], b_enc: Tensor) -> dict[str, Tensor]:
    if architecture == "standard":
        return {"threshold": torch.zeros_like(b_enc)}
    if "log_threshold" in rows:
        return {"threshold": rows["log_threshold"].exp()}
    if "topk_threshold" in rows:
        return {"threshold": torch.full_like(b_enc, rows["topk_threshold"].item())}
    return {}
