"""How figures are laid out: panels in a row, one legend beside them, tick labels that do not collide; matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revelio_fast.atomic import atomic_path
from revelio_fast.report.records import MODEL, FeatureResult, RunSummary, by_place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
BASELINE_COLOURS = ("dimgray", "darkgoldenrod", "rosybrown", "slateblue", "olive")
LETTER = 0.062  # inches that a letter of a tick label takes
TICK_SIZE = 7


def new_figure(columns: int, *, width: float = 4.4, height: float = 3.6) -> tuple[Figure, list[Any]]:
    """A figure of one row of panels, `width` inches each, drawn without a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which is not installed: pip install 'revelio-fast[report]'"
        ) from error
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG atomically, without a time stamp, so that equal figures are equal files."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def legend_outside(figure: Figure) -> None:
    """One legend for all panels, to their right, with each label once; the figure grows by its width."""
    found: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    columns = 1 + (len(found) - 1) // 18
    width, height = figure.get_size_inches()
    figure.set_size_inches(
        width + columns * (0.6 + 0.075 * max(map(len, found))), max(height, 0.17 * len(found) / columns)
    )
    figure.legend(list(found.values()), list(found), loc="outside right upper", fontsize=TICK_SIZE, ncols=columns)


def name_ticks(panel: Any, names: Sequence[str], width: float) -> None:
    """Label places 0, 1, .. of a panel that is `width` inches wide; upright where they would collide."""
    crowded = LETTER * max(map(len, names), default=0) > 0.8 * width / max(1, len(names))
    panel.set_xticks(
        range(len(names)), names, fontsize=TICK_SIZE, rotation=90 if crowded else 0, ha="center",
    )  # fmt: skip
    panel.set_xlim(-0.5, len(names) - 0.5)


def style_of(summary: RunSummary, each: FeatureResult) -> dict[str, Any]:
    """Of a line: a layer has its colour, a timestep its dashes; a baseline its colour and dots."""
    if each.name == MODEL:
        colour, dashes = summary.layer_names.index(str(each.layer)), summary.timesteps.index(each.timestep or 0)
        return {"color": f"C{colour % 10}", "linestyle": LINES[dashes % len(LINES)]}
    names = baseline_names(summary)
    return {"color": BASELINE_COLOURS[names.index(each.features) % len(BASELINE_COLOURS)], "linestyle": ":"}


def baseline_names(summary: RunSummary) -> list[str]:
    """The baselines, each once."""
    return list(dict.fromkeys(each.features for each in summary.baselines))


def label_of(summary: RunSummary, each: FeatureResult) -> str:
    """A result in a legend: place and timestep of the model's, the name of a baseline; seeds share it."""
    return each.title if each.name == MODEL else each.features


def baseline_lines(panel: Any, summary: RunSummary, value: Any) -> None:
    """A dotted line for each baseline; of one with several layers, the median and their range."""
    values: dict[str, list[float]] = {}
    for group in by_place(summary.baselines):
        found = value(group)
        if found is not None:
            values.setdefault(group[0].features, []).append(found)
    for name, found in values.items():
        colour = BASELINE_COLOURS[baseline_names(summary).index(name) % len(BASELINE_COLOURS)]
        middle = sorted(found)[len(found) // 2] if len(found) % 2 else sum(sorted(found)[len(found) // 2 - 1 :][:2]) / 2
        if len(found) > 1:
            panel.axhspan(min(found), max(found), color=colour, alpha=0.12)
        panel.axhline(middle, color=colour, linestyle=":", label=name)
