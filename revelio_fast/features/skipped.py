"""The list of images that an extraction left out, as ``skipped.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from revelio_fast.atomic import atomic_write_bytes
from revelio_fast.data import BrokenImageError

FILE_NAME = "skipped.csv"


def write_skipped(folder: Path, skipped: Sequence[BrokenImageError]) -> None:
    """Write ``image_id,path,reason``, one line per broken image; only the header if there are none."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image_id", "path", "reason"])
    rows.writerows([error.image_id, error.path, error.reason] for error in skipped)
    atomic_write_bytes(folder / FILE_NAME, text.getvalue().encode())
