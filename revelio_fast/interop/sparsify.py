"""sparsify (EleutherAI): a folder of ``cfg.json`` and ``sae.safetensors``, for a hookpoint.

``encoder.weight [n, d]``, ``encoder.bias``, ``W_dec [n, d]``, ``b_dec`` (our b_pre); ReLU before the top k.

SAeUron's files have these names too. With `input_unit_norm` they have layer norm, which its `forward` applies and its
`encode` does not. Its loader takes the top k of each row, whatever training did (`batch_topk`,
`sample_topk`), and so does ours.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from revelio_fast.atomic import atomic_path, atomic_write_json
from revelio_fast.interop.source import Checkpoint, Given, Source
from revelio_fast.interop.writing import folded, require, whole_k
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.semantics import Semantics

CONFIG, WEIGHTS = FILES = ("cfg.json", "sae.safetensors")
NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_pre"}


def recognises(source: Source) -> bool:
    """Whether this is a folder with sparsify's weights."""
    return source.has(WEIGHTS)


def read(source: Source, given: Given) -> Checkpoint:
    """Read the folder.

    Raises
    ------
    ValueError
        For a transcoder, a skip connection, an activation other than topk, or a damaged file.
    """
    where = str(source.folder)
    cfg, rows = source.json(CONFIG), source.tensors(WEIGHTS)
    if cfg.get("transcode") or cfg.get("skip_connection") or "W_skip" in rows:
        raise ValueError(f"{where} is a transcoder or has a skip connection, which no autoencoder here has")
    if cfg.get("activation", "topk") != "topk" or cfg.get("signed"):
        odd = {name: cfg[name] for name in ("activation", "signed") if cfg.get(name)}
        raise ValueError(f"{where} has {odd}; read is the activation 'topk', with a ReLU")
    semantics = Semantics("topk", "before", input_norm="layer_norm" if cfg.get("input_unit_norm") else "none")
    metadata = {name: value for name, value in cfg.items() if name not in ("d_in", "num_latents", "k")}
    found = {ours: rows[theirs] for theirs, ours in NAMES.items() if theirs in rows}
    return Checkpoint(found, cfg.get("k"), semantics, where, {"sparsify": metadata})


def write(sae: KSparseAutoencoder, path: Path) -> None:
    """Write the folder that ``SparseCoder.load_from_disk`` reads.

    Raises
    ------
    ValueError
        For an autoencoder without a ReLU, with another rule or a normalised input.
    """
    require(sae, "sparsify", rules=("topk",), relu=True)
    rows = folded(sae)._asdict()
    cfg = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        **sae.metadata.get("sparsify", {}),
    }
    cfg |= {"num_latents": sae.n_latents, "k": whole_k(sae, "sparsify"), "d_in": sae.d_in}
    with atomic_path(path / WEIGHTS) as temporary:
        save_file({theirs: rows[ours].contiguous() for theirs, ours in NAMES.items()}, temporary)
    atomic_write_json(path / CONFIG, cfg)
