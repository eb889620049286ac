"""Rows of a comparison, and the limits measured beside them, in Markdown."""

from __future__ import annotations

from typing import Any

from bench.limits import STREAMS

COLUMNS = ("work", "implementation", "median s", "vs first", "vs our PyTorch", "of limit", "added MB", "difference")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows, and under them why some could not run; what an older file lacks is "-"."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        cells = (
            row["what"],
            row["impl"],
            shown(row, "median_s", ".4f"),
            shown(row, "ratio", ".2f", "x"),
            shown(row, "ratio_reference", ".2f", "x"),
            shown(row, "share_of_limit", ".0%"),
            shown(row, "added_mb", ".0f"),
            shown(row, "max_rel_err", ".1e"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"- {row['what']}, {row['impl']}: {row['missing']}" for row in rows if "missing" in row]
    notes += [
        f"- {row['what']}, {row['impl']}: {row['share_of_encode']:.1%} of the encode's time"
        for row in rows
        if "share_of_encode" in row
    ]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def shown(row: dict[str, Any], name: str, style: str, unit: str = "") -> str:
    """A figure of the row; "-" where it has none."""
    return "-" if row.get(name) is None else format(row[name], style) + unit


def limits_lines(stamp: dict[str, Any]) -> str:
    """A line for each comparison that has them; empty for an older file."""
    return "\n".join(f"Limits beside {what}: {_limits(found)}." for what, found in stamp.get("limits", {}).items())


def _limits(found: dict[str, float]) -> str:
    units = [f"{name} {rate / 1e12:.3f}" for name, rate in found.items() if name not in (*STREAMS, "cycles")]
    streams = [f"{name} {found[name] / 1e9:.1f}" for name in STREAMS if name in found]
    clock = f" at {found['cycles'] / 1e9:.2f} GHz" if "cycles" in found else ""
    return f"{', '.join(units)} tera-operations a second{clock}; {', '.join(streams)} GB/s"
