"""The tables of docs/training.md, made from the record of all runs."""

from __future__ import annotations

import re
import statistics
from typing import Any

from tools.recipes.grid import STAGES, Stage

MARK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Markdown of every stage, by its name."""
    return {name: _table(stage, runs) for name, stage in STAGES.items()}


def with_tables(page: str, made: dict[str, str]) -> str:
    """The page with each table between its marks replaced."""
    return MARK.sub(lambda found: found[1] + made[found[2]] + found[3], page)


def _table(stage: Stage, runs: list[dict[str, Any]]) -> str:
    lines = ["| settings | " + " | ".join(stage.tasks) + " |", "|---|" + "---|" * len(stage.tasks)]
    for name, settings in stage.settings.items():
        cells = []
        for task in stage.tasks:
            found = [run for run in runs if run["task"] == task and run["settings"] == settings]
            cells.append(_cell(found) if found else "not run")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(found: list[dict[str, Any]]) -> str:
    """Mean of the held-out FVU and half its range over seeds; unused latents; directions found; CPU seconds."""
    fvu = [run["heldout_fvu"] for run in found]
    parts = [f"{statistics.mean(fvu):.4f} ± {(max(fvu) - min(fvu)) / 2:.4f}"]
    parts.append(f"{100 * statistics.mean(run['unused'] for run in found):.0f} % unused")
    if "recovered" in found[0]:
        parts.append(f"{100 * statistics.mean(run['recovered'] for run in found):.1f} % found")
    parts.append(f"{statistics.mean(run['cpu_seconds'] for run in found):.1f} s")
    return ", ".join(parts)
