"""Our own format: a folder of ``config.json`` and ``model.safetensors``, for every autoencoder that we can express."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from revelio_fast.atomic import atomic_path, atomic_write_json
from revelio_fast.interop.source import Checkpoint, Given, Source
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.semantics import Semantics

CONFIG, WEIGHTS = FILES = ("config.json", "model.safetensors")
PLAIN, GENERAL = "revelio_fast.ksae/1", "revelio_fast.ksae/2"
"""The first version of the format has no `semantics`: it is still written where `relu` says everything."""


def recognises(source: Source) -> bool:
    """Whether this is a folder with our weights."""
    return source.has(WEIGHTS)


def read(source: Source, given: Given) -> Checkpoint:
    """Read the folder.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    ValueError
        If they are damaged or do not belong together, or a newer version wrote them.
    """
    folder = source.folder
    for part in FILES:
        if not source.has(part):
            raise FileNotFoundError(f"{folder} holds no {part}: it is not a k-SAE saved by revelio_fast")
    config = source.json(CONFIG)
    version = config.get("format", PLAIN)
    if version not in (PLAIN, GENERAL):
        raise ValueError(f"{folder / CONFIG} has the format {version!r}: update revelio_fast")
    try:
        d_in, n, k, relu = (config[key] for key in ("d_in", "n_latents", "k", "relu"))
        semantics = Semantics.from_dict(config["semantics"]) if version == GENERAL else None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged ({error}): save the k-SAE again") from error
    whole = {"d_in": d_in, "n_latents": n} | ({"k": k} if semantics is None else {})
    for key, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{folder / CONFIG} is damaged: {key} must be a whole number of at least 1, got {value!r}")
    if not isinstance(relu, bool):
        raise ValueError(f"{folder / CONFIG} is damaged: relu must be true or false, got {relu!r}")
    rows = source.tensors(WEIGHTS)
    found = tuple(rows["W_dec"].shape) if "W_dec" in rows else (n, d_in)
    if found != (n, d_in):
        raise ValueError(f"{folder / WEIGHTS}: W_dec has shape {list(found)}, expected {[n, d_in]}")
    if semantics is None:
        semantics = Semantics(relu="after" if relu else "none")
    return Checkpoint(rows, k, semantics, str(folder / WEIGHTS), config.get("metadata") or {})


def write(sae: KSparseAutoencoder, path: Path) -> None:
    """Write the folder; every autoencoder can be."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    with atomic_path(path / WEIGHTS) as temporary:
        save_file(state, temporary)
    plain = sae.semantics == Semantics(relu="after" if sae.relu else "none")
    about = {
        "format": PLAIN if plain else GENERAL,
        "d_in": sae.d_in,
        "n_latents": sae.n_latents,
        "k": sae.k,
        "relu": sae.relu,
    }
    if not plain:
        about["semantics"] = sae.semantics.as_dict()
    if sae.metadata:
        about["metadata"] = sae.metadata
    atomic_write_json(path / CONFIG, about)
