"""Slow, plain-Python statements of what the concepts code must compute."""

from __future__ import annotations

import math
import statistics
from collections import Counter

import torch
from torch import Tensor


class DenseSAE:
    """A k-SAE's encoder by dense arithmetic, so that concepts can be tested without ksae."""

    def __init__(self, n: int, d: int, k: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.W_enc = torch.randn(n, d, generator=generator)
        self.b_enc = torch.randn(n, generator=generator) * 0.1
        self.b_pre = torch.randn(d, generator=generator)
        self.k = k

    def encode(self, x: Tensor, precision: str = "fp32"):
        from revelio_fast.ops import Code

        values, indices = self.pre_activations(x).topk(self.k, 1)
        return Code(values, indices)

    def pre_activations(self, x: Tensor) -> Tensor:
        return (x - self.b_pre) @ self.W_enc.T + self.b_enc


def strongest(entries: list[tuple[int, int, float]], n: int, m: int) -> tuple[list, list, list, list]:
    """Top images of each latent from (latent, image id, activation): values, ids, counts, means."""
    values, ids, counts, means = [], [], [], []
    for latent in range(n):
        active = [(value, image) for j, image, value in entries if j == latent and value > 0]
        best: dict[int, float] = {}
        for value, image in active:
            best[image] = max(value, best.get(image, -math.inf))
        ranked = sorted(((value, image) for image, value in best.items()), key=lambda e: (-e[0], e[1]))[:m]
        values.append([v for v, _ in ranked] + [-math.inf] * (m - len(ranked)))
        ids.append([i for _, i in ranked] + [-1] * (m - len(ranked)))
        counts.append(len(active))
        means.append(sum(v for v, _ in active) / len(active) if active else 0.0)
    return values, ids, counts, means


def purity(
    ids: list[list[int]],
    counts: list[int],
    means: list[float],
    labels: dict[int, int],
    latents: int,
    images: int,
):
    """sigma_label, majority share, entropy (bits) and the latents used, as the paper and its code describe them."""
    ranked = sorted((j for j in range(len(ids)) if counts[j] > 10), key=lambda j: (-means[j], j))[:latents]
    sigmas, shares, entropies = [], [], []
    for latent in ranked:
        top = [labels[i] for i in ids[latent][:images]]
        sigmas.append(statistics.stdev(top))
        tally = Counter(top).values()
        shares.append(max(tally) / images)
        entropies.append(-sum(c / images * math.log2(c / images) for c in tally))
    return statistics.fmean(sigmas), statistics.fmean(shares), statistics.fmean(entropies), ranked
