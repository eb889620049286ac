"""`label_purity`: do the top images of a latent share a label, and is that more than chance?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from revelio_fast import seeds
from revelio_fast.concepts.agreement import LOW_IS_PURE, MEASURES, agreement, agreement_means
from revelio_fast.concepts.top_activations import TopActivations
from revelio_fast.records import Record
from revelio_fast.statistics import Interval, bootstrap_interval, central_interval, permutation_p_value

RANKINGS = {
    "paper": "mean activation over the images where the latent is active, as the authors' code does",
    "frequency": "number of images where the latent is active",
    "max": "largest activation",
}
MIN_ACTIVE = 10
CURVE_STEP = 100


@dataclass(frozen=True)
class PurityResult(Record):
    """Purity of the top latents, with what chance would give.

    The dictionaries are keyed by ``"sigma_label"``, ``"majority_share"``, ``"entropy"``, ``"entropy_normalised"``.

    Attributes
    ----------
    sigma_label : float
        Mean unbiased standard deviation of the integer labels of the top images. Lower is purer; depends on how
        classes are numbered.
    majority_share : float
        Mean share of the commonest label, between 1 / top_images and 1.
    entropy, entropy_normalised : float
        Mean label entropy in bits, and over the largest possible.
    chance : dict of str to float
        Mean of each measure when labels are shuffled among the images.
    chance_interval : dict of str to (float, float)
        Central 95 % of the shuffled values.
    p_value : dict of str to float
        Share of shuffles at least as pure, (1 + count) / (1 + permutations).
    interval : dict of str to (float, float)
        95 % bootstrap interval over latents. It treats latents as independent although they share images; over
        training seeds it was about as wide as it should be.
    sigma_curve : dict of int to float
        sigma_label of the first 100, 200, ... ranked latents, and of all that qualify.
    ranking, ranking_text : str
        How latents were ranked, by name and in words.
    n_latents_used, n_latents_qualified, top_latents, top_images : int
        Latents used, those that could have been, and what was asked for.
    n_images, n_classes : int
        Labelled images and distinct labels.
    latents : list of int
        The latents used, best ranked first.
    note : str
        What the reader must know (too few latents, unlabelled images); empty if nothing.
    """

    sigma_label: float
    majority_share: float
    entropy: float
    entropy_normalised: float
    chance: dict[str, float]
    chance_interval: dict[str, Interval]
    p_value: dict[str, float]
    interval: dict[str, Interval]
    sigma_curve: dict[int, float]
    ranking: str
    ranking_text: str
    n_latents_used: int
    n_latents_qualified: int
    top_latents: int
    top_images: int
    n_images: int
    n_classes: int
    latents: list[int]
    note: str = ""


def shortfall(used: int, asked: int) -> str:
    """The sentence on fewer latents than were asked for."""
    return (
        f"Only {used} of the {asked} latents asked for are active in more than {MIN_ACTIVE} images; "
        "all of them were used."
    )


def rank_latents(tops: TopActivations, ranking: str = "paper", min_active: int = MIN_ACTIVE) -> Tensor:
    """Latents active in more than `min_active` rows, best ranked first (ties: lower latent first), int64.

    Parameters
    ----------
    ranking : {"paper", "frequency", "max"}
        See `label_purity`.
    """
    if ranking not in RANKINGS:
        raise ValueError(f"ranking must be one of {', '.join(RANKINGS)}, got {ranking!r}.")
    scores = {"paper": tops.mean_activation, "frequency": tops.counts, "max": tops.values[:, 0]}[ranking].cpu()
    qualified = (tops.counts.cpu() > min_active).nonzero().flatten()
    return qualified[scores[qualified].argsort(descending=True, stable=True)]


def label_purity(
    tops: TopActivations,
    labels: Mapping[int, int] | Tensor,
    *,
    top_latents: int = 1000,
    top_images: int = 10,
    ranking: str = "paper",
    permutations: int = 500,
    bootstrap: int = 1000,
    seed: int = 0,
) -> PurityResult:
    """Measure whether the top images of the top latents share labels (Revelio, section 4, sigma_label).

    Only latents active in more than 10 images take part, as in the authors' code. Beside the paper's sigma_label,
    which depends on the numbering of classes, two measures that do not: majority share and label entropy. Chance is
    found by shuffling labels among images, which keeps how often an image appears.

    Parameters
    ----------
    tops : TopActivations
        With ``m >= top_images``.
    labels : mapping of int to int, or Tensor
        Label of each image that `tops` has seen, by image id; an image left out or with -1 has none.
    top_latents, top_images : int
        How many latents, and images of each; the paper's 1000 and 10.
    ranking : {"paper", "frequency", "max"}
        Rank latents by mean activation where active (the paper's), by how often active, or by largest activation.
    permutations, bootstrap : int
        Shuffles for chance, and resamples for the interval.
    seed : int
        For both.

    Raises
    ------
    ValueError
        If nothing can be measured: no latent qualifies, no image has a label, or m is too small.
    """
    if not 2 <= top_images <= tops.m:
        raise ValueError(
            f"top_images must be between 2 and the {tops.m} images kept of each latent, got {top_images}: "
            "collect top images with a larger m."
        )
    if min(top_latents, permutations, bootstrap) < 1:
        raise ValueError("top_latents, permutations and bootstrap must be at least 1.")
    ids, values = _labelled(labels)
    order = rank_latents(tops, ranking)
    notes = []
    places = tops.image_ids.cpu()[order, :top_images]
    where = torch.searchsorted(ids, places).clamp_max(len(ids) - 1)
    usable = (ids[where] == places).all(1)
    if len(order) and not usable.all():
        notes.append(f"Latents left out because some of their top images have no label: {int((~usable).sum())}.")
    order, where = order[usable], where[usable]
    if not len(order):
        raise ValueError(
            f"No latent can be judged: none is active in more than {MIN_ACTIVE} images with labels among its top "
            f"{top_images} (images seen: {tops.n_images}, labelled: {len(ids)}). "
            "Use more images, a larger k, or train longer."
        )
    used = min(top_latents, len(order))
    if used < top_latents:
        notes.append(shortfall(used, top_latents))
    if len(ids) > tops.n_images:
        notes.append(
            f"Labels of {len(ids)} images were given but only {tops.n_images} were seen: chance is that of all of them."
        )
    n_classes = len(values.unique())
    if n_classes < 2:
        notes.append("All images have the same label: purity says nothing here.")
    every = agreement(values[where], n_classes)
    where = where[:used]
    generator = seeds.generator(seed, "purity.permutations")
    shuffled = torch.stack(
        [agreement_means(values[torch.randperm(len(values), generator=generator)][where], n_classes)
         for _ in range(permutations)]
    )  # fmt: skip
    random = seeds.numpy_generator(seed, "purity.bootstrap")
    means, chance, chance_interval, p_value, interval = {}, {}, {}, {}, {}
    for column, name in enumerate(MEASURES):
        measured, by_chance = every[name][:used], shuffled[:, column]
        means[name] = measured.mean().item()
        chance[name] = by_chance.mean().item()
        chance_interval[name] = central_interval(by_chance)
        p_value[name] = permutation_p_value(means[name], by_chance, low_is_extreme=LOW_IS_PURE[name])
        interval[name] = bootstrap_interval(measured, bootstrap, random)
    running = every["sigma_label"].cumsum(0)
    return PurityResult(
        **means,
        chance=chance,
        chance_interval=chance_interval,
        p_value=p_value,
        interval=interval,
        sigma_curve={n: running[n - 1].item() / n for n in [*range(CURVE_STEP, len(order), CURVE_STEP), len(order)]},
        ranking=ranking,
        ranking_text=f"{RANKINGS[ranking]}; only latents active in more than {MIN_ACTIVE} images",
        n_latents_used=used,
        n_latents_qualified=len(order),
        top_latents=top_latents,
        top_images=top_images,
        n_images=len(ids),
        n_classes=n_classes,
        latents=order[:used].tolist(),
        note=" ".join(notes),
    )


def _labelled(labels: Mapping[int, int] | Tensor) -> tuple[Tensor, Tensor]:
    """Sorted image ids that have a label, and their labels."""
    if isinstance(labels, Tensor):
        if labels.ndim != 1 or labels.is_floating_point():
            raise ValueError(
                f"labels must be a vector of integers indexed by image id, got {labels.dtype} {list(labels.shape)}."
            )
        values = labels.cpu().long()
        ids = torch.arange(len(values))
    else:
        ids = torch.tensor(sorted(labels), dtype=torch.int64)
        values = torch.tensor([int(labels[i]) for i in ids.tolist()], dtype=torch.int64)
    known = values >= 0
    if not known.any():
        raise ValueError("None of the images has a label: purity needs a labelled data set.")
    return ids[known], values[known]
