"""How much the labels of a latent's top images agree: three measures, for many latents at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MEASURES = ("sigma_label", "majority_share", "entropy", "entropy_normalised")
LOW_IS_PURE = {"sigma_label": True, "majority_share": False, "entropy": True, "entropy_normalised": True}


def agreement(labels: Tensor, n_classes: int) -> dict[str, Tensor]:
    """Measures of each row of labels.

    Parameters
    ----------
    labels : Tensor
        ``[latents, images]`` int64 labels of each latent's top images, at least 2 images.
    n_classes : int
        Classes among all images; scales the normalised entropy.

    Returns
    -------
    dict of str to Tensor
        ``[latents]`` float64 each:

        - ``sigma_label``: unbiased standard deviation of the integer labels (Revelio, section 4). Depends on how
          classes are numbered.
        - ``majority_share``: share of the commonest label.
        - ``entropy``: of the labels, in bits.
        - ``entropy_normalised``: entropy over the largest possible, log2 of min(images, n_classes).
    """
    images = labels.shape[1]
    same = (labels[:, :, None] == labels[:, None, :]).sum(2).double() / images
    entropy = -same.log2().mean(1) + 0.0
    largest = math.log2(min(images, n_classes)) if n_classes > 1 else 1.0
    return {
        "sigma_label": labels.double().std(1),
        "majority_share": same.max(1).values,
        "entropy": entropy,
        "entropy_normalised": entropy / largest,
    }


def agreement_means(labels: Tensor, n_classes: int) -> Tensor:
    """Mean over latents of each of `MEASURES`, ``[4]`` float64."""
    values = agreement(labels, n_classes)
    return torch.stack([values[name].mean() for name in MEASURES])
