"""Intervals and tests: Wilson, bootstrap, permutation, and differences of paired and of independent figures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from revelio_fast import seeds
from revelio_fast.records import Record

Interval = tuple[float, float]
Z95 = 1.959963984540054
RESAMPLES = 9999


def wilson_interval(correct: int, total: int, z: float = Z95) -> Interval:
    """Wilson's score interval of a share, 95 % by default; (0, 1) without any trial."""
    if total == 0:
        return 0.0, 1.0
    share = correct / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # Rounding must not leave the share itself outside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def central_interval(samples: Tensor) -> Interval:
    """The central 95 % of samples ``[n]``."""
    low, high = torch.quantile(samples, torch.tensor([0.025, 0.975], dtype=samples.dtype)).tolist()
    return low, high


def bootstrap_interval(values: Tensor, resamples: int, random: np.random.Generator) -> Interval:
    """95 % percentile interval of the mean of ``[n]`` values, which are resampled with replacement."""
    # How often each distinct value is drawn is multinomial: the same distribution as drawing n times, but faster.
    distinct, counts = np.unique(values.numpy(force=True).astype(np.float64), return_counts=True)
    drawn = random.multinomial(len(values), counts / len(values), size=resamples)
    return central_interval(torch.from_numpy(drawn @ distinct / len(values)))


def permutation_p_value(measured: float, by_chance: Tensor, *, low_is_extreme: bool) -> float:
    """Share of chance values ``[n]`` at least as extreme as the measured one: (1 + count) / (1 + n)."""
    # A margin of rounding: a chance value equal to the measured one counts as at least as extreme.
    extreme = by_chance <= measured + 1e-12 if low_is_extreme else by_chance >= measured - 1e-12
    return (1 + int(extreme.sum())) / (1 + len(by_chance))


def averaged_interval(values: Sequence[float], intervals: Sequence[Interval]) -> tuple[float, float | None, Interval]:
    """Mean, n - 1 deviation and 95 % interval of a figure that was measured with several seeds.

    The interval joins two causes of doubt, which add in squares: that of each measurement (the mean of the intervals,
    since all seeds were tested on the same images), and that of the mean over seeds (1.96 standard errors).
    """
    n = len(values)
    mean = sum(values) / n
    low = sum(value - ends[0] for value, ends in zip(values, intervals, strict=True)) / n
    high = sum(ends[1] - value for value, ends in zip(values, intervals, strict=True)) / n
    if n == 1:
        return mean, None, (mean - low, mean + high)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    error = Z95 * deviation / math.sqrt(n)
    return mean, deviation, (mean - math.hypot(low, error), mean + math.hypot(high, error))


@dataclass(frozen=True)
class Difference(Record):
    """A difference of two figures, the second subtracted from the first.

    Attributes
    ----------
    value : float
    interval : (float, float)
        95 %.
    p_value : float
        Two-sided, of no difference.
    test : str
        How both were found, in words.
    """

    value: float
    interval: Interval
    p_value: float
    test: str


def paired_difference(ours: Tensor, theirs: Tensor, seed: int = 0) -> Difference:
    """Difference of two accuracies on the same test images.

    Parameters
    ----------
    ours, theirs : Tensor
        ``[repeats, n]``: 1 where a repeat classified an image right, else 0. The numbers of repeats may differ.
    seed : int
        Of the resamples.

    Notes
    -----
    The interval is a percentile bootstrap over images. The p-value is that of McNemar's exact test where there is one
    repeat of each, else of a sign-flip test of the images' differences, each a mean over repeats.
    """
    differences = ours.double().mean(0) - theirs.double().mean(0)
    n, value = len(differences), float(differences.mean())
    random = seeds.numpy_generator(seed, "statistics.difference")
    interval = bootstrap_interval(differences, RESAMPLES, random)
    if len(ours) == len(theirs) == 1:
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        p_value, test = _binomial_p_value(wins, wins + losses), f"McNemar's exact test on the same {n} images"
    else:
        # Signs are flipped at random; only the number of plus signs among equal sizes matters.
        sizes, counts = np.unique(differences.abs().numpy(), return_counts=True)
        sums = (2 * random.binomial(counts, 0.5, size=(RESAMPLES, len(counts))) - counts) @ sizes
        p_value = permutation_p_value(abs(value), torch.from_numpy(np.abs(sums) / n), low_is_extreme=False)
        test = f"sign-flip test on the same {n} images, means over seeds"
    return Difference(value, interval, p_value, test)


def independent_difference(ours: float, our_interval: Interval, theirs: float, their_interval: Interval) -> Difference:
    """Difference of two independent figures from their 95 % intervals, by the square-and-add rule.

    Notes
    -----
    Newcombe, Statistics in Medicine 17 (1998) 873, method 10, for shares; the rule holds for any two estimates whose
    intervals are known. The p-value is that of the normal distribution with the same half width.
    """
    value = ours - theirs
    below = math.hypot(ours - our_interval[0], their_interval[1] - theirs)
    above = math.hypot(our_interval[1] - ours, theirs - their_interval[0])
    towards_zero = below if value > 0 else above
    # Two figures without any doubt differ for certain.
    deviations = abs(value) / towards_zero * Z95 if towards_zero else math.inf
    p_value = math.erfc(deviations / math.sqrt(2)) if value else 1.0
    return Difference(value, (value - below, value + above), p_value, "the two 95 % intervals")


def images_key(image_ids: Tensor) -> str:
    """A digest of the test images: figures with equal digests were measured on the same images."""
    return hashlib.sha256(image_ids.sort().values.numpy(force=True).tobytes()).hexdigest()[:16]


def marks(correct: Tensor, image_ids: Tensor) -> str:
    """Which test images were classified right, in the order of their ids, as text of 1 and 0."""
    return "".join("01"[int(right)] for right in correct[image_ids.argsort()].tolist())


def marked(texts: Sequence[str]) -> Tensor:
    """What `marks` wrote, one row for each text: bool ``[texts, n]``."""
    return torch.tensor([[mark == "1" for mark in text] for text in texts])


def _binomial_p_value(wins: int, total: int) -> float:
    """Two-sided exact test that wins and losses are equally likely."""
    if total == 0:
        return 1.0
    tail = sum(math.comb(total, count) for count in range(min(wins, total - wins) + 1))
    return min(1.0, 2 * tail / 2**total)
