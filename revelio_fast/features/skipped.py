"""The list of images that an extraction left out, as ``skipped.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from revelio_fast.csv_text import write_csv
from revelio_fast.data import BrokenImageError

FILE_NAME = "skipped.csv"


def write_skipped(folder: Path, skipped: Sequence[BrokenImageError]) -> None:
    """Write ``image_id,path,reason``, one line per broken image; only the header if there are none."""
    rows = [[error.image_id, error.path, error.reason] for error in skipped]
    write_csv(folder / FILE_NAME, ["image_id", "path", "reason"], rows)
