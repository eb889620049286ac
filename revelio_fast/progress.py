"""Progress bars: tqdm's on a terminal; in a file or a pipe a line every half minute instead of a bar that redraws."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm as _plain_tqdm
from tqdm.auto import tqdm as _tqdm

LINE_SECONDS = 30.0


class Notice(UserWarning):
    """Something a user may want to know, though nothing is wrong; ``--quiet`` leaves it out."""


class _Lines(_plain_tqdm):
    """Writes lines; the first after half a minute, so that short work stays silent."""

    def __init__(self, *arguments: Any, **options: Any):
        options = {"mininterval": LINE_SECONDS, "maxinterval": 2 * LINE_SECONDS, "delay": LINE_SECONDS, **options}
        super().__init__(*arguments, **{**options, "ncols": 100, "ascii": True})

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Return a function that writes a line."""

        def write(text: str) -> None:
            if text.strip():
                file.write(text.strip() + "\n")
                file.flush()

        return write


def tqdm(*arguments: Any, **options: Any) -> Any:
    """`tqdm.auto.tqdm`, or lines where stderr is no terminal."""
    kind = _tqdm if sys.stderr is not None and sys.stderr.isatty() else _Lines
    return kind(*arguments, **options)
