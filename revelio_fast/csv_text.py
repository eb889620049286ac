"""CSV files: written as a whole or line by line, read as columns, safe to open in a spreadsheet.

A spreadsheet runs text that begins with ``=``, ``+``, ``-`` or ``@`` as a formula. File names, class names and prompts
come from elsewhere, so such text is written with an apostrophe before it; `plain` takes it off again.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from revelio_fast.atomic import atomic_write_bytes

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def escaped(cell: Any) -> Any:
    """The cell as it is written: text that a spreadsheet would run gets an apostrophe, None becomes empty."""
    if cell is None:
        return ""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip("'").startswith(_FORMULA) else cell


def plain(cell: str) -> str:
    """The text that `escaped` was given."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Lines of CSV, each ended by a newline. Numbers keep full precision; None is an empty cell."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([escaped(cell) for cell in row] for row in rows)
    return text.getvalue()


def write_csv(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a header and rows, atomically, as UTF-8."""
    atomic_write_bytes(path, (csv_text([columns]) + csv_text(rows)).encode())


def parse_csv(text: str) -> list[list[str]]:
    """The rows of a CSV text, the header included, as `csv_text` was given them (all as text)."""
    return [[plain(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""))]


def read_csv(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of a file by column name; none if there is no file."""
    if not Path(path).is_file():
        return []
    columns, *rows = parse_csv(Path(path).read_bytes().decode()) or [[]]
    return [dict(zip(columns, row, strict=False)) for row in rows]


def read_numbers(path: str | os.PathLike[str]) -> dict[str, list[float]]:
    """The columns of a file as numbers, NaN where a cell is empty or no number."""
    rows = read_csv(path)
    return {name: [_number(row.get(name, "")) for row in rows] for name in (rows[0] if rows else ())}


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
