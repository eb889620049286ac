"""Figures of what is compared: purity by layer and timestep, accuracies; with chance and baselines in every panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from revelio_fast.report.drawing import baseline_lines, legend_outside, name_ticks, new_figure, style_of
from revelio_fast.report.records import (
    DIFFC,
    MODEL,
    ClassifierResult,
    FeatureResult,
    RunSummary,
    Spread,
    accuracy_of,
    by_place,
    purity_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (
    ("majority_share", "majority share (higher is purer)"),
    ("sigma_label", "sigma_label (lower is purer)"),
    ("entropy", "label entropy, bits (lower is purer)"),
)


def purity_by_layer(summary: RunSummary) -> Figure | None:
    """Purity over layers, one line for each timestep, with chance and baselines."""
    return _purity_lines(
        summary, summary.layer_names, lambda each: str(each.layer), lambda each: f"t = {each.timestep}", "layer"
    )


def purity_by_timestep(summary: RunSummary) -> Figure | None:
    """Purity over timesteps, one line for each layer, with chance and baselines; None for a single timestep."""
    times = summary.timesteps
    if len(times) < 2:
        return None
    return _purity_lines(
        summary, [str(t) for t in times], lambda each: str(each.timestep), lambda each: str(each.layer), "timestep"
    )


def _purity_lines(
    summary: RunSummary,
    ticks: list[str],
    tick: Callable[[FeatureResult], str],
    line: Callable[[FeatureResult], str],
    axis: str,
) -> Figure | None:
    groups = [group for group in by_place(summary.layers) if all(each.compared_purity for each in group)]
    if not groups:
        return None
    width = max(3.6, 0.5 * len(ticks))
    figure, panels = new_figure(len(PANELS), width=width)
    names = list(dict.fromkeys(line(group[0]) for group in groups))
    for panel, (measure, title) in zip(panels, PANELS, strict=True):
        for number, name in enumerate(names):
            # Side by side, so that the intervals of one place can be told apart.
            shift = 0.3 * ((number + 0.5) / len(names) - 0.5)
            members = sorted((g for g in groups if line(g[0]) == name), key=lambda g: ticks.index(tick(g[0])))
            spreads = [purity_of(group, measure) for group in members]
            x = [ticks.index(tick(group[0])) + shift for group in members]
            _errors(panel, x, spreads, marker="o", markersize=4, capsize=2, label=name, color=f"C{number % 10}")
            for at, group in zip(x, members, strict=True):
                _seeds(panel, at, [getattr(each.compared_purity, measure) for each in group], f"C{number % 10}")
        _chance(panel, groups, ticks, tick, measure)
        baseline_lines(panel, summary, lambda group, m=measure: _mean_purity(group, m))
        name_ticks(panel, ticks, width)
        panel.set_xlabel(axis)
        panel.set_title(title, fontsize=10)
    legend_outside(figure)
    return figure


def _chance(
    panel: Any, groups: list[list[FeatureResult]], ticks: list[str], tick: Callable[[FeatureResult], str], measure: str
) -> None:
    """A dashed line and the central 95 % of shuffled labels, averaged over the results at a place."""
    at: dict[int, list[tuple[float, float, float]]] = {}
    for each in (each for group in groups for each in group):
        purity = each.compared_purity
        assert purity is not None
        at.setdefault(ticks.index(tick(each)), []).append((purity.chance[measure], *purity.chance_interval[measure]))
    places = sorted(at)
    means = np.array([np.mean(at[place], axis=0) for place in places])
    panel.plot(places, means[:, 0], color="black", linestyle="--", label="chance")
    panel.fill_between(places, means[:, 1], means[:, 2], color="black", alpha=0.12)


def _mean_purity(group: Sequence[FeatureResult], measure: str) -> float | None:
    return purity_of(group, measure).mean if all(each.compared_purity for each in group) else None


def _mean_probe(group: Sequence[FeatureResult]) -> float | None:
    probes = [each.probe for each in group if each.probe]
    return accuracy_of(probes).mean if probes else None


def accuracies(summary: RunSummary) -> Figure | None:
    """Linear probe and Diff-C accuracies by layer and timestep, with baselines and chance."""
    probed = [group for group in by_place(summary.layers) if all(each.probe for each in group)]
    trained = by_place([each for each in summary.classifiers if each.head == DIFFC])
    own = [group for group in trained if group[0].name == MODEL]
    if not probed and not own:
        return None
    width = max(3.6, 0.3 * max(len(probed), len(own)))
    figure, panels = new_figure(int(bool(probed)) + int(bool(own)), width=width, height=4.2)
    if probed:
        panel = panels.pop(0)
        titles = [group[0].title for group in probed]
        spreads = [accuracy_of([each.probe for each in group if each.probe]) for group in probed]
        _errors(panel, range(len(titles)), spreads, fmt="o", capsize=3, label="model", color="C0")
        baseline_lines(panel, summary, _mean_probe)
        first = probed[0][0].probe
        panel.axhline(first.chance if first else 0, color="black", linestyle="--", label="chance")
        _finish(panel, titles, "linear probe on pooled features", width)
    if own:
        panel = panels.pop(0)
        _classifier_panel(panel, summary, own, [group for group in trained if group not in own])
        _finish(panel, [group[0].title for group in own], "Diff-C on feature maps", width)
    legend_outside(figure)
    return figure


def _classifier_panel(
    panel: Any, summary: RunSummary, own: list[list[ClassifierResult]], others: list[list[ClassifierResult]]
) -> None:
    spreads = [accuracy_of(group) for group in own]
    _errors(panel, range(len(own)), spreads, fmt="o", capsize=3, label="model", color="C0")
    for at, group in enumerate(own):
        _seeds(panel, at, [each.accuracy for each in group], "C0")
    values: dict[str, list[float]] = {}
    for group in others:
        values.setdefault(group[0].features, []).append(accuracy_of(group).mean)
    for name, found in values.items():
        like = next((each for each in summary.baselines if each.features == name), None)
        style = style_of(summary, like) if like else {"color": "dimgray", "linestyle": ":"}
        if len(found) > 1:
            panel.axhspan(min(found), max(found), color=style["color"], alpha=0.12)
        panel.axhline(float(np.median(found)), label=name, **style)
    panel.axhline(own[0][0].chance, color="black", linestyle="--", label="chance")


def _finish(panel: Any, titles: list[str], title: str, width: float) -> None:
    """Let accuracies start at 0; after everything is drawn, as it ends autoscaling."""
    panel.set_ylim(0, min(1.0, panel.get_ylim()[1]) * 1.02)
    name_ticks(panel, titles, width)
    panel.set_title(title, fontsize=10)
    panel.set_ylabel("test accuracy")


def _errors(panel: Any, x: Any, spreads: Sequence[Spread], **style: Any) -> None:
    y = np.array([each.mean for each in spreads])
    bounds = np.array([each.interval for each in spreads]).reshape(-1, 2)
    panel.errorbar(x, y, yerr=np.abs(bounds - y[:, None]).T, **style)


def _seeds(panel: Any, x: float, values: Sequence[float], colour: str) -> None:
    """A small mark for each seed, where there are several."""
    if len(values) > 1:
        panel.plot([x] * len(values), values, linestyle="none", marker="_", markersize=5, color=colour)
