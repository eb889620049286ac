"""The figures of a report: purity, accuracy, training curves, latent density; matplotlib, without a display."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from revelio_fast.atomic import atomic_path
from revelio_fast.report.summary import DIFFC, History, LayerRun, RunSummary
from revelio_fast.report.tables import diffc_chance, diffc_interval, layers_of, timesteps_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (
    ("sigma_label", "sigma_label (lower is purer)"),
    ("majority_share", "majority share (higher is purer)"),
    ("entropy", "label entropy, bits (lower is purer)"),
)


def new_figure(columns: int, height: float = 3.6) -> tuple[Figure, list[Any]]:
    """A figure of one row of panels, drawn without a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which is not installed: pip install 'revelio-fast[report]'"
        ) from error
    figure = Figure(figsize=(4.6 * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG atomically, without a time stamp, so that equal figures are equal files."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def purity_by_layer(summary: RunSummary) -> Figure | None:
    """Purity over layers, one line for each timestep, with chance and baselines."""
    lines = [(f"t = {t}", [r for r in summary.layers if r.timestep == t and r.purity]) for t in timesteps_of(summary)]
    return _purity_lines(summary, lines, [str(layer) for layer in layers_of(summary)], lambda run: run.layer, "layer")


def purity_by_timestep(summary: RunSummary) -> Figure | None:
    """Purity over timesteps, one line for each layer, with chance and baselines."""
    times = timesteps_of(summary)
    if len(times) < 2:
        return None
    lines = [(layer, [r for r in summary.layers if r.layer == layer and r.purity]) for layer in layers_of(summary)]
    return _purity_lines(summary, lines, [str(t) for t in times], lambda run: str(run.timestep), "timestep")


def _purity_lines(
    summary: RunSummary, lines: list[tuple[str, list[LayerRun]]], ticks: list[str], place: Any, axis: str
) -> Figure | None:
    if not any(runs for _, runs in lines):
        return None
    figure, panels = new_figure(len(PANELS))
    for panel, (measure, title) in zip(panels, PANELS, strict=True):
        chance: dict[int, list[tuple[float, float, float]]] = {}
        for number, (name, runs) in enumerate(lines):
            runs = sorted(runs, key=lambda run: ticks.index(place(run)))
            x = [ticks.index(place(run)) for run in runs]
            results = [run.purity for run in runs if run.purity]
            y = np.array([getattr(purity, measure) for purity in results])
            bounds = np.array([purity.interval[measure] for purity in results]).reshape(-1, 2)
            error = np.abs(bounds - y[:, None]).T
            panel.errorbar(x, y, yerr=error, marker="o", capsize=3, label=name, color=f"C{number}")
            for tick, purity in zip(x, results, strict=True):
                chance.setdefault(tick, []).append((purity.chance[measure], *purity.chance_interval[measure]))
        at = sorted(chance)
        means = np.array([np.mean(chance[a], axis=0) for a in at])
        panel.plot(at, means[:, 0], color="black", linestyle="--", label="chance")
        panel.fill_between(at, means[:, 1], means[:, 2], color="black", alpha=0.12)
        _baseline_lines(panel, summary, lambda b, m=measure: b.purity and getattr(b.purity, m))
        panel.set_xticks(range(len(ticks)), ticks)
        panel.set_xlabel(axis)
        panel.set_title(title, fontsize=10)
    panels[0].legend(fontsize=7)
    return figure


def _baseline_lines(panel: Any, summary: RunSummary, measure: Any) -> None:
    """A dotted line for each baseline; those with several layers by their best and worst value."""
    found: dict[str, list[float]] = {}
    for baseline in summary.baselines:
        value = measure(baseline)
        if value is not None:
            found.setdefault(baseline.name, []).append(value)
    for number, (name, values) in enumerate(found.items()):
        colour = f"C{9 - number}"
        if len(values) > 1:
            panel.axhspan(min(values), max(values), color=colour, alpha=0.12)
        panel.axhline(float(np.median(values)), color=colour, linestyle=":", label=name)


def accuracies(summary: RunSummary) -> Figure | None:
    """Linear probe and Diff-C accuracies by layer and timestep, with baselines and chance."""
    diffc = [run for run in summary.diffc if run.baseline is None and run.head == DIFFC]
    probes = [run for run in summary.layers if run.probe]
    if not diffc and not probes:
        return None
    figure, panels = new_figure(int(bool(diffc)) + int(bool(probes)))
    if probes:
        points = [(f"{r.layer}\nt={r.timestep}", r.probe.accuracy, r.probe.interval) for r in probes if r.probe]
        panel = panels.pop(0)
        _points(panel, points, "linear probe on pooled features")
        _baseline_lines(panel, summary, lambda baseline: baseline.probe and baseline.probe.accuracy)
        panel.axhline(probes[0].probe.chance if probes[0].probe else 0, color="black", linestyle="--", label="chance")
        _from_zero(panel)
    if diffc:
        panel = panels.pop(0)
        points = [(f"{r.layer}\nt={r.timestep}", r.accuracy, diffc_interval(r)) for r in diffc]
        _points(panel, points, "Diff-C on feature maps")
        for number, run in enumerate(r for r in summary.diffc if r.baseline and r.head == DIFFC):
            name = f"{run.baseline}: {run.layer} t={run.timestep}"
            panel.axhline(run.accuracy, color=f"C{9 - number % 9}", linestyle=":", label=name)
        panel.axhline(diffc_chance(diffc[0]), color="black", linestyle="--", label="chance")
        _from_zero(panel)
    return figure


def _from_zero(panel: Any) -> None:
    """Let accuracies start at 0, with room for the legend; after everything is drawn, as it ends autoscaling."""
    panel.set_ylim(0, min(1.0, panel.get_ylim()[1]) * 1.25)
    panel.legend(fontsize=7, ncols=2, loc="upper left")


def _points(panel: Any, points: list[tuple[str, float, tuple[float, float]]], title: str) -> None:
    y = np.array([accuracy for _, accuracy, _ in points])
    error = np.abs(np.array([interval for _, _, interval in points]) - y[:, None]).T
    panel.errorbar(range(len(y)), y, yerr=error, fmt="o", capsize=3, label="model")
    panel.set_xticks(range(len(y)), [name for name, _, _ in points], fontsize=7)
    panel.set_title(title, fontsize=10)
    panel.set_ylabel("test accuracy")


def columns_of(history: History) -> dict[str, list[float]]:
    """A training history by column, given by column or by row; a row without a column gives NaN there."""
    if isinstance(history, Mapping):
        return {name: list(values) for name, values in history.items()}
    names = dict.fromkeys(name for row in history for name in row)
    return {name: [row.get(name, float("nan")) for row in history] for name in names}


def training_curves(summary: RunSummary) -> Figure | None:
    """FVU (and held-out FVU, dashed), L0 and dead latents over training steps, one line for each k-SAE."""
    histories = [(f"{r.layer} t={r.timestep}", columns_of(r.history)) for r in summary.layers if len(r.history)]
    if not histories:
        return None
    figure, panels = new_figure(3)
    titles = (
        ("fvu", "FVU (dashed: held out)"),
        ("l0", "L0: active latents per image"),
        ("dead", "dead latents"),
    )
    for panel, (column, title) in zip(panels, titles, strict=True):
        for number, (name, history) in enumerate(histories):
            drawn = [(column, "-"), ("holdout_fvu", "--")] if column == "fvu" else [(column, "-")]
            for key, style in drawn:
                values = np.array(history.get(key, []), dtype=float)
                steps = np.array(history.get("step", range(len(values))), dtype=float)
                known = np.isfinite(values)
                if known.any():
                    label = name if style == "-" else None
                    marker = "." if known.sum() == 1 else None
                    panel.plot(
                        steps[known],
                        values[known],
                        style,
                        marker=marker,
                        color=f"C{number % 10}",
                        label=label,
                    )
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("step")
    if panels[0].lines:
        panels[0].set_yscale("log")
        panels[0].legend(fontsize=6)
    return figure


def density_histogram(summary: RunSummary) -> Figure | None:
    """How many latents are active in what share of images, one outline for each k-SAE."""
    runs = [run for run in summary.layers if run.tops]
    if not runs:
        return None
    figure, (panel,) = new_figure(1)
    panel.figure.set_size_inches(7, 3.8)
    lowest = min(1 / max(run.tops.n_images, 1) for run in runs if run.tops)
    bins = np.logspace(np.log10(lowest) - 0.05, 0.0, 40)
    for number, run in enumerate(runs):
        assert run.tops is not None
        density = run.tops.density.numpy(force=True)
        never = int((density == 0).sum())
        label = f"{run.layer} t={run.timestep} ({never} never active)"
        panel.hist(density[density > 0], bins, histtype="step", label=label, color=f"C{number % 10}")
    panel.set(xscale="log", xlabel="share of images in which the latent is active", ylabel="latents")
    panel.legend(fontsize=7)
    return figure


def sigma_curves(summary: RunSummary) -> Figure | None:
    """sigma_label over the number of latents, as the authors' average_stds.json, with chance."""
    runs = [run for run in summary.layers if run.purity and run.purity.sigma_curve]
    if not runs:
        return None
    figure, (panel,) = new_figure(1)
    panel.figure.set_size_inches(7, 3.8)
    for number, run in enumerate(runs):
        assert run.purity is not None
        curve, colour = run.purity.sigma_curve, f"C{number % 10}"
        panel.plot(list(curve), list(curve.values()), color=colour, label=f"{run.layer} t={run.timestep}")
        panel.axhline(run.purity.chance["sigma_label"], color=colour, linestyle="--", linewidth=0.7)
    panel.set(xlabel="latents, best ranked first", ylabel="sigma_label (dashed: chance)")
    panel.legend(fontsize=7)
    return figure
