"""Class labels from the values of a column: integers as they are, text by its alphabetical order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from revelio_fast.data.errors import SourceError
from revelio_fast.data.image_source import NO_LABEL

NO_COLUMN = "none"
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "target", "category", "variant", "fine_label")
IMAGE_COLUMNS = ("image", "img", "file", "file_name", "filename", "path", "image_path")


def find_column(columns: Sequence[str], asked: str | None, usual: Sequence[str], what: str, source: str) -> str | None:
    """The column asked for, or the first usual one there is (None if there is none).

    Raises
    ------
    SourceError
        If the column asked for does not exist; lists the columns there are.
    """
    if asked is not None:
        if asked not in columns:
            raise SourceError(
                f"{source} has no {what} column {asked!r}: its columns are {', '.join(map(repr, columns))}."
            )
        return asked
    return next((name for name in usual if name in columns), None)


def missing_column(columns: Sequence[str], what: str, source: str) -> SourceError:
    """The error for a column that could not be guessed."""
    hint = f", or {what}_column='{NO_COLUMN}' to go without labels" if what == "label" else ""
    return SourceError(
        f"{source} has no {what} column under a usual name: its columns are {', '.join(map(repr, columns))}. "
        f"Name one with {what}_column{hint}."
    )


def to_labels(values: Sequence[Any], source: str) -> tuple[list[int], list[str] | None]:
    """Integer labels and, if the values were text, the class names.

    Raises
    ------
    SourceError
        For an empty value or one that is neither an integer nor text, naming its row.
    """
    for row, value in enumerate(values):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise SourceError(f"{source} has no label in row {row}: fill it in or remove the row.")
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise SourceError(f"{source} has the label {value!r} in row {row}: a label is an integer or a class name.")
    try:
        numbers = [int(value) for value in values]
    except ValueError:
        names = sorted({str(value).strip() for value in values})
        index = {name: number for number, name in enumerate(names)}
        return [index[str(value).strip()] for value in values], names
    if any(number < NO_LABEL for number in numbers):
        raise SourceError(f"{source} has the label {min(numbers)}: labels count from 0, and -1 means none.")
    return numbers, None
