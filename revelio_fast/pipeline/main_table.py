"""The main figures of a run as a text table for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COLUMNS = ("features", "sigma_label", "(chance)", "same label", "(chance)", "probe", "Diff-C")


def main_table(summary: Path) -> str:
    """Lay out ``report/summary.json``: a row for each layer and timestep, then the baselines.

    sigma_label: lower is purer. "same label": mean share of the commonest label among a latent's top images.
    """
    values = json.loads(summary.read_text(encoding="utf-8"))
    diffc = {
        (run["baseline"], run["layer"], run["timestep"]): run["accuracy"]
        for run in values["diffc"]
        if run["head"] == "Diff-C"
    }
    rows = []
    for item in values["layers"]:
        accuracy = diffc.get((None, item["layer"], item["timestep"]))
        rows.append(_row(f"{item['layer']} t={item['timestep']}", item, accuracy))
    for item in values["baselines"]:
        place = (item["layer"], item["timestep"]) if item["layer"] else ("input", 0)
        name = item["name"] + (f" {item['layer']} t={item['timestep']}" if item["layer"] else "")
        rows.append(_row(name, item, diffc.get((item["name"], *place))))
    lines = [COLUMNS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    text = []
    for name, *cells in lines:
        numbers = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        text.append("  ".join([name.ljust(widths[0]), *numbers]))
    return "\n".join(text)


def _row(name: str, item: dict[str, Any], diffc: float | None) -> tuple[str, ...]:
    purity, probe = item.get("purity"), item.get("probe")
    cells = [name]
    for measure in ("sigma_label", "majority_share"):
        cells.append(f"{purity[measure]:.3f}" if purity else "-")
        cells.append(f"{purity['chance'][measure]:.3f}" if purity else "-")
    cells.append(f"{100 * probe['accuracy']:.1f} %" if probe else "-")
    cells.append(f"{100 * diffc:.1f} %" if diffc is not None else "-")
    return tuple(cells)
