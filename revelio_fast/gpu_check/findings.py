"""`Finding`: one thing that was tried on a GPU, and how it went."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """`backend` is who ran it, `words` the largest error and what is allowed, or what went wrong.

    `passed` is None where it cannot run here, which `words` explain.
    """

    what: str
    backend: str
    passed: bool | None
    words: str

    def __str__(self) -> str:
        mark = "skip" if self.passed is None else "ok  " if self.passed else "FAIL"
        return f"{mark}  {self.what:<52} {self.backend:<9}{self.words}"
