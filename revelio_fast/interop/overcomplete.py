"""overcomplete: the state_dict of a `TopKSAE` or `BatchTopKSAE`, which users save themselves; it does not say k.

``encoder.final_block.0.weight [n, d]`` and ``.bias``, or ``encoder.weight`` of an untied encoder;
``dictionary._weights [n, d]`` and ``dictionary.multiplier``. ReLU before the top k, no b_pre.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from revelio_fast.atomic import atomic_path
from revelio_fast.interop.inert_pickle import Inert
from revelio_fast.interop.source import PICKLES, Checkpoint, Given, Source
from revelio_fast.interop.writing import folded, require
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.semantics import Semantics

FILES = ()
DICTIONARY = "dictionary._weights"
UNIT = 1e-4
"""How far a dictionary's rows may be from unit norm to be written: overcomplete normalises them when it is used."""


def recognises(source: Source) -> bool:
    """Whether this is a file of these names, or of a pickled module of the library."""
    return DICTIONARY in source.state or _is_module(source)


def read(source: Source, given: Given) -> Checkpoint:
    """Read the file; k, or threshold and ``rule="threshold"`` for a BatchTopKSAE in evaluation, must be passed.

    Its latents are active from the threshold on, where ours are above it: the next lower number is used.

    Raises
    ------
    ValueError
        For a pickled module, an encoder that is not linear, a dictionary that is not of unit rows, or if k is missing.
    """
    where, state = str(source.path), source.state
    if _is_module(source):
        raise ValueError(
            f"{where} is {source.describe()}, and pickled modules are never loaded, since they can execute code. Save "
            "its weights where the library is installed: torch.save(sae.state_dict(), 'sae.pt'), and note sae.top_k"
        )
    if DICTIONARY not in state:
        raise ValueError(f"{where} is no state_dict of overcomplete: expected {DICTIONARY}; it is {source.describe()}")
    if "thresholds" in state:
        raise ValueError(f"{where} is a JumpSAE; read are TopKSAE and BatchTopKSAE")
    W_enc, b_enc = _encoder(state, where)
    weights = state[DICTIONARY].float()
    norms = weights.norm(dim=1, keepdim=True)
    if not bool(((norms > 0.9) & (norms < 1.1)).all()):
        raise ValueError(
            f"{where} has dictionary rows of norm {norms.min():.3g} to {norms.max():.3g}: its normalisation is not the "
            "default l2, or it was never used. Save the dictionary itself in its place: "
            "state['dictionary._weights'] = sae.get_dictionary()"
        )
    W_dec = weights / norms * torch.exp(state.get("dictionary.multiplier", torch.zeros(())).float())
    rows = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_pre": torch.zeros(weights.shape[1])}
    if given.rule == "threshold":
        if given.threshold is None:
            raise ValueError(f"{where} does not say its threshold: pass threshold=sae.running_threshold")
        below = torch.nextafter(torch.tensor(given.threshold), torch.tensor(-torch.inf)).item()
        return Checkpoint(
            rows | {"threshold": torch.full_like(b_enc, below)}, given.k, Semantics("threshold", "before"), where
        )
    if given.k is None:
        raise ValueError(
            f"{where} does not say how many latents are active: pass k=sae.top_k of a TopKSAE; of a BatchTopKSAE, "
            "whose top_k counts the whole batch, rule='threshold' and threshold=sae.running_threshold"
        )
    return Checkpoint(rows, given.k, Semantics("topk", "before"), where)


def write(sae: KSparseAutoencoder, path: Path) -> None:
    """Write a state_dict for a ``TopKSAE(d, nb_concepts=n, top_k=k)`` with its default encoder.

    A path that is no ``.pt`` or ``.pth`` is a folder, in which the file is called ``sae.pt``.

    Raises
    ------
    ValueError
        For an autoencoder without a ReLU, with a b_pre, decoder rows that are not of unit norm, or another rule.
    """
    require(sae, "overcomplete", rules=("topk",), relu=True)
    rows = folded(sae)
    norms = rows.W_dec.norm(dim=1)
    if bool(rows.b_pre.any()):
        raise ValueError(
            "the format overcomplete has no b_pre, and this autoencoder's is not zero: choose another format"
        )
    if bool(((norms - 1).abs() > UNIT).any()):
        raise ValueError(
            f"the format overcomplete has decoder rows of unit norm, this autoencoder's are {norms.min():.4g} to "
            f"{norms.max():.4g}: choose another format"
        )
    state = {
        "encoder.final_block.0.weight": rows.W_enc,
        "encoder.final_block.0.bias": rows.b_enc,
        DICTIONARY: rows.W_dec,
        "dictionary.multiplier": torch.zeros(()),
    }
    with atomic_path(path if path.name.endswith(PICKLES) else path / "sae.pt") as temporary:
        torch.save(state, temporary)


def _is_module(source: Source) -> bool:
    if source.path.is_dir() or not source.path.name.endswith(PICKLES):
        return False
    saved = source.saved()
    return isinstance(saved, Inert) and type(saved).__module__.startswith("overcomplete")


def _encoder(state: dict[str, Tensor], where: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear encoder."""
    names = {name for name in state if name.startswith("encoder.")}
    for layer in ("encoder.final_block.0", "encoder"):
        weight, bias = f"{layer}.weight", f"{layer}.bias"
        if weight in names and not names - {weight, bias}:
            return state[weight], state.get(bias, torch.zeros(state[weight].shape[0]))
    found = ", ".join(sorted(names)) or "no tensors of it"
    raise ValueError(f"{where} has an encoder that is not linear, or is tied to the dictionary: {found}")
