"""The main figures of a run as a text table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from revelio_fast.report import ClassifierResult, FeatureResult, RunSummary
from revelio_fast.report.records import DIFFC, Spread, accuracy_of, by_place, purity_of

COLUMNS = ("features", "majority share", "(chance)", "sigma_label", "(chance)", "probe", "Diff-C")


def main_table(summary: RunSummary) -> str:
    """A row for each layer and timestep, then the baselines; means and deviations over seeds where there are several.

    Majority share: mean share of the commonest label among a latent's top images, higher is purer. sigma_label: lower
    is purer.
    """
    diffc = {group[0].place: group for group in by_place(summary.classifiers) if group[0].head == DIFFC}
    rows = [_row(group, diffc.get(group[0].place)) for group in by_place([*summary.layers, *summary.baselines])]
    lines = [COLUMNS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    text = []
    for name, *cells in lines:
        numbers = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        text.append("  ".join([name.ljust(widths[0]), *numbers]))
    if summary.common_latents:
        text.append(f"Purity of every row: of its {summary.common_latents} best-ranked latents.")
    if len(summary.seeds) > 1:
        text.append(f"Means and deviations over seeds {', '.join(map(str, summary.seeds))}.")
    return "\n".join(text)


def _row(group: Sequence[FeatureResult], diffc: Sequence[ClassifierResult] | None) -> tuple[str, ...]:
    cells = [group[0].title]
    judged = all(each.compared_purity for each in group)
    purity = group[0].compared_purity
    for measure in ("majority_share", "sigma_label"):
        cells.append(_cell(purity_of(group, measure)) if judged else "-")
        cells.append(f"{purity.chance[measure]:.3f}" if judged and purity else "-")
    probes = [each.probe for each in group if each.probe]
    cells.append(_percent(accuracy_of(probes)) if probes else "-")
    cells.append(_percent(accuracy_of(diffc)) if diffc else "-")
    return tuple(cells)


def _cell(spread: Spread) -> str:
    return f"{spread.mean:.3f}" + (f" ± {spread.deviation:.3f}" if spread.deviation is not None else "")


def _percent(spread: Spread) -> str:
    deviation = f" ± {100 * spread.deviation:.1f}" if spread.deviation else ""
    return f"{100 * spread.mean:.1f}{deviation} %"
