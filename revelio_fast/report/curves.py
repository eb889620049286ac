"""Figures of the k-SAEs: training curves, density of latents, sigma_label over the number of latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from revelio_fast.report.drawing import label_of, legend_outside, new_figure, style_of
from revelio_fast.report.records import FeatureResult, RunSummary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATIO = 1.25  # of the edges of a bin of the density
LEAST_IN_BIN = 10


def training_curves(summary: RunSummary) -> Figure | None:
    """FVU, held-out FVU, L0 and dead latents over training steps, one line for each k-SAE."""
    trained = [each for each in summary.features if each.history]
    titles = {
        "fvu": "FVU of the batch",
        "holdout_fvu": "held-out FVU",
        "l0": "L0: active latents per image",
        "dead": "dead in training",
    }
    shown = [column for column in titles if _varies(trained, column)]
    if not trained or not shown:
        return None
    figure, panels = new_figure(len(shown))
    for panel, column in zip(panels, shown, strict=True):
        for each in trained:
            values = np.array(each.history.get(column, []), dtype=float)
            steps = np.array(each.history.get("step", range(len(values))), dtype=float)
            known = np.isfinite(values)
            if known.any():
                marker = "." if known.sum() == 1 else None
                panel.plot(
                    steps[known], values[known], marker=marker, linewidth=1, label=label_of(summary, each),
                    **style_of(summary, each),
                )  # fmt: skip
        if column.endswith("fvu"):
            panel.set_yscale("log")
        panel.set_title(titles[column], fontsize=10)
        panel.set_xlabel("step")
    legend_outside(figure)
    return figure


def _varies(trained: Sequence[FeatureResult], column: str) -> bool:
    """Whether a column was measured and says anything; L0 is k in every step where nothing clamps activations."""
    values = np.array([value for each in trained for value in each.history.get(column, [])], dtype=float)
    values = values[np.isfinite(values)]
    return bool(len(values)) and (column != "l0" or bool(np.ptp(values) > 0))


def density_edges(most: int) -> np.ndarray:
    """Edges of bins of whole numbers from 1 to `most`, halfway between them; no bin holds fewer than the one before."""
    first, size, edges = 1, 1, [0.5]
    while first <= most:
        size = max(size, int(first * (RATIO - 1)))
        first += size
        edges.append(first - 0.5)
    return np.array(edges)


def density_curve(counts: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents for each number of images, over bins joined until they hold `LEAST_IN_BIN` latents: x, y and the edges.

    Fewer would draw chance. The last bin takes what is left.
    """
    found = np.histogram(counts, edges)[0]
    kept, held = [edges[0]], 0
    for edge, number in zip(edges[1:], found, strict=True):
        held += number
        if held >= LEAST_IN_BIN:
            kept.append(edge)
            held = 0
    if held and len(kept) > 1:
        kept.pop()
    if held:
        kept.append(edges[np.flatnonzero(found)[-1] + 1])
    bins = np.array(kept)
    heights = np.histogram(counts, bins)[0] / np.diff(bins)
    return np.sqrt((bins[:-1] + 0.5) * (bins[1:] - 0.5)), heights, bins


def density_histogram(summary: RunSummary) -> Figure | None:
    """How many latents are active in how many images, one line for each k-SAE.

    Numbers of images are whole, so that a bin of the logarithmic axis holds one of them, or two, or more. Latents are
    counted per number, else bins that happen to hold more would stand out.
    """
    runs = [each for each in summary.features if each.tops]
    if not runs:
        return None
    figure, (panel,) = new_figure(1, width=5.5, height=4.0)
    edges = density_edges(max(each.tops.n_images for each in runs if each.tops))
    for each in runs:
        assert each.tops is not None
        counts = each.tops.counts.numpy(force=True)
        x, y, _ = density_curve(counts[counts > 0], edges)
        panel.plot(
            x, y, marker=".", markersize=3, linewidth=1, label=_density_label(summary, each), **style_of(summary, each)
        )  # fmt: skip
    panel.set(
        xscale="log", yscale="log", xlabel="images in which the latent is active",
        ylabel="latents for each number of images",
    )  # fmt: skip
    legend_outside(figure)
    return figure


def _density_label(summary: RunSummary, each: FeatureResult) -> str:
    """With the latents that are never active; baselines of several layers share a label and so have no number."""
    label = label_of(summary, each)
    if (each.layer is not None and label == each.features) or each.tops is None or len(summary.seeds) > 1:
        return label
    return f"{label} ({int((each.tops.counts == 0).sum())} never active)"


def sigma_curves(summary: RunSummary) -> Figure | None:
    """sigma_label over the number of latents, as the authors' average_stds.json, with chance."""
    runs = [each for each in summary.features if each.purity and each.purity.sigma_curve]
    if not runs:
        return None
    figure, (panel,) = new_figure(1, width=5.5, height=4.0)
    for each in runs:
        assert each.purity is not None
        curve: dict[int, float] = each.purity.sigma_curve
        style: dict[str, Any] = style_of(summary, each)
        panel.plot(
            list(curve), list(curve.values()), marker=".", markersize=3, linewidth=1, label=label_of(summary, each),
            **style,
        )  # fmt: skip
    chance = [each.purity.chance["sigma_label"] for each in runs if each.purity]
    panel.axhspan(min(chance), max(chance), color="black", alpha=0.12)
    panel.axhline(float(np.mean(chance)), color="black", linestyle="--", linewidth=1, label="chance")
    if summary.common_latents:
        panel.axvline(summary.common_latents, color="black", linewidth=0.6, label="number that is compared")
    panel.set(xlabel="latents, best ranked first", ylabel="mean sigma_label of that many")
    legend_outside(figure)
    return figure
