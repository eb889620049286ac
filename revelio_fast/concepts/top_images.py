"""`top_images`: reads a whole store through a k-SAE and keeps the strongest images of every latent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from revelio_fast.concepts.top_activations import TopActivations, merge_ranked
from revelio_fast.ops import TopState
from revelio_fast.progress import tqdm
from revelio_fast.renamed import Renamed, renamed

if TYPE_CHECKING:
    from revelio_fast.ksae import KSparseAutoencoder
    from revelio_fast.store import ActivationStore

COMPAT = ("paper", "authors")
_DENSE_BLOCK = 256


@renamed(ranking=Renamed("compat", {"official": "authors"}))
@torch.no_grad()
def top_images(
    sae: KSparseAutoencoder,
    store: ActivationStore | Tensor,
    m: int = 20,
    *,
    batch_size: int = 4096,
    compat: str = "paper",
    precision: str = "fp32",
    progress: bool = False,
) -> TopActivations:
    """Find the `m` images that activate each latent most.

    Parameters
    ----------
    sae : KSparseAutoencoder
    store : ActivationStore or Tensor
        Features; of a plain ``[N, d]`` tensor the row numbers are the image ids.
    m : int
        Images to keep of each latent.
    batch_size : int
        Rows encoded at once; the result does not depend on it (but for the rounding of mean activations).
    compat : {"paper", "authors"}
        ``"paper"`` ranks images by the k-sparse code z = TopK(...) of Eq. 3, so an image counts for k latents at
        most. ``"authors"`` reproduces the authors' released code, which ranks by ReLU of the pre-activations before
        TopK, where about half of all latents are active for any image; dense, so slow: for comparison only.
    precision : str
        Of the encoder, see `topk_encode`.
    progress : bool
        Show a bar.

    Returns
    -------
    TopActivations
        Its ``about`` holds the store's ``metadata``, and ``compat``.

    Raises
    ------
    ValueError
        If the store's features have another width than the k-SAE, or `compat` is unknown.
    """
    if compat not in COMPAT:
        raise ValueError(f"compat must be one of {', '.join(COMPAT)}, got {compat!r}.")
    n, d = sae.W_enc.shape
    width = store.shape[-1] if isinstance(store, Tensor) else store.d
    if width != d:
        raise ValueError(
            f"The k-SAE reads features of width {d}, the store holds width {width}: "
            "use the k-SAE that was trained on this layer."
        )
    device = sae.W_enc.device
    about = {} if isinstance(store, Tensor) else dict(store.metadata)
    tops = TopActivations(n, m, device, **{**about, "compat": compat})
    size = min(batch_size, _DENSE_BLOCK) if compat == "authors" else batch_size
    with tqdm(total=len(store), unit="image", desc="top images", disable=not progress) as bar:
        for features, image_ids in _blocks(store, size):
            features, image_ids = features.to(device), image_ids.to(device)
            if compat == "paper":
                tops.update(sae.encode(features, precision=precision), image_ids)
            else:
                _update_dense(tops, sae, features, image_ids)
            bar.update(features.shape[0])
    return tops


def _blocks(store: ActivationStore | Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(store, Tensor):
        for start, part in zip(range(0, len(store), size), store.split(size), strict=True):
            yield part.float(), torch.arange(start, start + part.shape[0])
    else:
        for features, image_ids, _ in store.blocks(size):
            yield features, image_ids


def _update_dense(tops: TopActivations, sae: KSparseAutoencoder, features: Tensor, image_ids: Tensor) -> None:
    """Take in a block by all its positive pre-activations."""
    order = image_ids.argsort()
    features, image_ids = features[order], image_ids[order]
    activations = torch.addmm(sae.b_enc, features - sae.b_pre, sae.W_enc.T).relu_()
    strongest, rows = activations.sort(dim=0, descending=True, stable=True)
    strongest, rows = strongest[: tops.m].T, rows[: tops.m].T
    new_values = strongest.masked_fill(strongest <= 0, -torch.inf)
    new_ids = image_ids[rows].masked_fill(strongest <= 0, -1)
    values, ids = merge_ranked(torch.cat([tops.values, new_values], 1), torch.cat([tops.image_ids, new_ids], 1), tops.m)
    sums = tops.state.sums + activations.sum(0, dtype=torch.float64)
    tops.state = TopState(values, ids, sums, tops.counts + (activations > 0).sum(0))
    tops.n_images += features.shape[0]
