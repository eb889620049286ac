"""`Table`: rows that are written both as CSV (full precision) and as Markdown (rounded)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from revelio_fast.atomic import atomic_write_bytes
from revelio_fast.csv_text import csv_text

Cell = str | float | int | None
SHARE = ".1%"
DEVIATION = "deviation over seeds"


@dataclass
class Table:
    """A table with a caption.

    Attributes
    ----------
    name : str
        File name without ending.
    caption : str
        One or two sentences: what the columns are, what is better.
    columns : list of str
    rows : list of list
        Strings, numbers, or None for an empty cell.
    formats : dict of str to str
        Format of a column's numbers in Markdown (``".2f"``, ``".1%"``); CSV keeps full precision.
    """

    name: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    formats: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """The table in GitHub's Markdown, without caption."""
        lines = ["| " + " | ".join(_escaped(c) for c in self.columns) + " |"]
        numeric = [
            all(isinstance(row[i], int | float) or row[i] is None for row in self.rows)
            for i in range(len(self.columns))
        ]
        lines.append("|" + "|".join("---:" if right else "---" for right in numeric) + "|")
        for row in self.rows:
            cells = [self._cell(column, value) for column, value in zip(self.columns, row, strict=True)]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """The table as CSV with a header line."""
        return csv_text([self.columns, *([None if _missing(value) else value for value in row] for row in self.rows)])

    def write(self, folder: Path) -> None:
        """Write ``NAME.csv`` and ``NAME.md`` into `folder`."""
        atomic_write_bytes(folder / f"{self.name}.csv", self.csv().encode())
        atomic_write_bytes(folder / f"{self.name}.md", f"{self.caption}\n\n{self.markdown()}".encode())

    def _cell(self, column: str, value: Cell) -> str:
        if _missing(value):
            return ""
        if isinstance(value, float):
            return format(value, self.formats.get(column, ".4g"))
        return _escaped(str(value))


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
