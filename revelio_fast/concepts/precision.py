"""What a lower precision of the features costs: how far they move, and how many top images of the latents change."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from revelio_fast.concepts.top_images import top_images

if TYPE_CHECKING:
    from revelio_fast.ksae import KSparseAutoencoder
    from revelio_fast.store import ActivationStore


class PrecisionLoss(NamedTuple):
    """Features against those of a reference.

    Attributes
    ----------
    median, largest : float
        Over images, of the relative error ||x - r|| / ||r|| of a feature x with the reference r.
    top_images_kept : float or None
        Mean share of a latent's top images that are the reference's top images too, over the latents that have
        enough of them; None without a k-SAE.
    """

    median: float
    largest: float
    top_images_kept: float | None


def precision_loss(
    found: ActivationStore, reference: ActivationStore, sae: KSparseAutoencoder | None = None, m: int = 10
) -> PrecisionLoss:
    """Compare the features of the same images at two precisions.

    Parameters
    ----------
    found, reference : ActivationStore
        Of one layer and timestep; images are matched by id.
    sae : KSparseAutoencoder, optional
        Both are encoded by it.
    m : int
        Top images of a latent.

    Raises
    ------
    ValueError
        If the stores hold other images or widths.
    """
    rows, expected = found.sorted_by_id(), reference.sorted_by_id()
    if found.d != reference.d or not torch.equal(rows.image_ids, expected.image_ids):
        raise ValueError(
            f"{found.path} holds {found.rows} features of width {found.d}, {reference.path} {reference.rows} of width "
            f"{reference.d}, or of other images: compare the same images at the same layer."
        )
    errors = (rows.features - expected.features).norm(dim=1) / expected.features.norm(dim=1)
    kept = None
    if sae is not None:
        kept = _kept(*(top_images(sae, each.features, m).image_ids for each in (rows, expected)))
    return PrecisionLoss(float(errors.median()), float(errors.max()), kept)


def _kept(found: Tensor, expected: Tensor) -> float:
    """Mean share of the entries of each row of `expected` that are in that row of `found`; -1 marks an empty place."""
    full = (expected >= 0).all(1)
    same = (expected[full, :, None] == found[full, None, :]).any(2)
    return float(same.double().mean())
