"""A CSV (or TSV) file that lists image files and their labels."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from revelio_fast.data.errors import SourceError
from revelio_fast.data.identity import normal_name
from revelio_fast.data.image_source import NO_LABEL, ImageSource
from revelio_fast.data.labels import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    NO_COLUMN,
    find_column,
    missing_column,
    to_labels,
)


def open_csv(table: Path, split: str | None, image_column: str | None, label_column: str | None) -> ImageSource:
    """Rows of `table`; file paths are relative to its folder. A ``class_name`` column names integer labels.

    An image's name is its path relative to that folder, or the whole path of a file that lies elsewhere.
    """
    columns, rows = _read(table)
    file_column = find_column(columns, image_column, IMAGE_COLUMNS, "image", str(table))
    if file_column is None:
        raise missing_column(columns, "image", str(table))
    files = [table.parent / _cell(row, file_column, line, table) for line, row in enumerate(rows, start=2)]
    names = [_name(path, table.parent) for path in files]
    _refuse_duplicates(table, names)

    labels, class_names = [NO_LABEL] * len(rows), None
    if label_column != NO_COLUMN:
        name = find_column(columns, label_column, LABEL_COLUMNS, "label", str(table))
        if name is None:
            raise missing_column(columns, "label", str(table))
        labels, class_names = to_labels([row[name] for row in rows], str(table))
        if class_names is None and "class_name" in columns:
            class_names = _named(table, labels, [row["class_name"] for row in rows])

    positions = range(len(rows))
    if split is not None:
        if "split" not in columns:
            raise SourceError(f"{table} has no 'split' column: its columns are {', '.join(map(repr, columns))}.")
        positions = [i for i in positions if rows[i]["split"] == split]  # type: ignore[assignment]
        if not positions:
            found = ", ".join(sorted({repr(row["split"]) for row in rows}))
            raise SourceError(f"{table} has no row of the split {split!r}: its splits are {found}.")
    source = ImageSource(
        str(table) if split is None else f"{table} ({split})",
        names,
        labels,
        paths=lambda row: str(files[row]),
        opener=lambda row: files[row],
        class_names=class_names,
        columns={name: lambda name=name: [row[name] for row in rows] for name in columns},  # type: ignore[misc]
        names_are=f"paths relative to {table.parent}",
    )
    return source.subset(positions) if split is not None else source


def _read(table: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
            rows = list(reader)
            columns = list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{table} cannot be read as UTF-8 CSV: {error}.") from error
    if not rows:
        raise SourceError(f"{table} has no rows: give a header line and one line per image, e.g. 'file,label'.")
    return columns, rows


def _cell(row: dict[str, str], column: str, line: int, table: Path) -> str:
    value = (row[column] or "").strip()
    if not value:
        raise SourceError(f"{table}, line {line}: the column {column!r} is empty; it must name an image file.")
    if "\\" in value and os.sep == "/" and not (table.parent / value).exists():
        return value.replace("\\", "/")  # written on Windows
    return value


def _name(path: Path, folder: Path) -> str:
    whole, above = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return normal_name((whole.relative_to(above) if whole.is_relative_to(above) else whole).as_posix())


def _refuse_duplicates(table: Path, names: list[str]) -> None:
    first: dict[str, int] = {}
    for line, name in enumerate(names, start=2):
        if name in first:
            raise SourceError(
                f"{table} lists {name} twice, in lines {first[name]} and {line}: keep one, "
                "or the image would count twice in every figure."
            )
        first[name] = line


def _named(table: Path, labels: list[int], names: list[str]) -> list[str]:
    by_label: dict[int, str] = {}
    for line, (label, name) in enumerate(zip(labels, names, strict=True), start=2):
        if by_label.setdefault(label, name) != name:
            raise SourceError(
                f"{table}, line {line}: label {label} is called {name!r} here and {by_label[label]!r} above."
            )
    return [by_label.get(label, str(label)) for label in range(max(labels) + 1)]
