"""The errors of a collection of images."""

from __future__ import annotations

from typing import Any


class SourceError(ValueError):
    """A collection of images cannot be opened; the message says what was found and what to give instead."""


class BrokenImageError(SourceError):
    """One image cannot be decoded.

    Attributes
    ----------
    image_id : int
    path : str
        The file, or the data set and row.
    reason : str
    """

    def __init__(self, image_id: int, path: str, reason: str):
        super().__init__(
            f"The image {path} cannot be decoded: {reason}. "
            "Repair or remove it, or pass on_error='skip' to leave such images out and list them."
        )
        self.image_id = image_id
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.image_id, self.path, self.reason)
