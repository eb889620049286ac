"""What an image source is: items with stable ids, decoded only when asked for, and the errors a source raises."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

NO_LABEL = -1


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
            f"Image {image_id} ({path}) cannot be decoded: {reason}. "
            "Repair or remove it, or pass on_error='skip' to leave such images out and list them."
        )
        self.image_id = image_id
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.image_id, self.path, self.reason)


@dataclass(frozen=True)
class ImageItem:
    """One image of a source.

    Attributes
    ----------
    image_id : int
        Position in the whole source.
    label : int
        Class index, -1 if there is none.
    path : str
        The file, or the data set and row: what an error message names.
    """

    image_id: int
    label: int
    path: str
    opener: Callable[[], Image]

    def load(self) -> Image:
        """Decode the image; upright, in whatever mode it is stored.

        Raises
        ------
        BrokenImageError
            If the file is missing, is no image, or is damaged.
        """
        from PIL import ImageOps
        from PIL.Image import DecompressionBombError

        try:
            image = self.opener()
            image.load()
            return ImageOps.exif_transpose(image)
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, DecompressionBombError) as error:
            reason = str(error).strip().rstrip(".") or type(error).__name__
            raise BrokenImageError(self.image_id, self.path, reason) from error

    @property
    def image(self) -> Image:
        """The decoded image; see `load`."""
        return self.load()


class ImageSource:
    """A sequence of images with ids, labels and class names; nothing is decoded before `ImageItem.load`.

    Parameters
    ----------
    name : str
        How reports and manifests call this source.
    image_ids, labels : sequence of int
        One per image; label -1 means none.
    paths : callable
        ``paths(image_id)`` names the image.
    opener : callable
        ``opener(image_id)`` returns a PIL image, perhaps not yet decoded.
    class_names : sequence of str, optional
        ``class_names[label]``.
    columns : mapping of str to callable, optional
        Further columns, each read when asked for: ``columns[name]()[image_id]``.
    dataset : str, optional
        Which of `PAPER_DATASETS` it is.
    """

    def __init__(
        self,
        name: str,
        image_ids: Sequence[int],
        labels: Sequence[int],
        paths: Callable[[int], str],
        opener: Callable[[int], Image],
        class_names: Sequence[str] | None = None,
        columns: Mapping[str, Callable[[], Sequence[Any]]] | None = None,
        dataset: str | None = None,
    ):
        if len(image_ids) != len(labels):
            raise SourceError(f"{name} has {len(image_ids)} image ids but {len(labels)} labels.")
        self.name = name
        self.class_names = None if class_names is None else [str(each) for each in class_names]
        self.dataset = dataset
        self._columns = dict(columns or {})
        self._ids = list(image_ids)
        self._labels = list(labels)
        self._paths = paths
        self._opener = opener
        self._positions = {image_id: position for position, image_id in enumerate(self._ids)}

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, position: int) -> ImageItem:
        image_id = self._ids[position]
        opener = self._opener
        return ImageItem(image_id, self._labels[position], self._paths(image_id), lambda: opener(image_id))

    def __iter__(self) -> Iterator[ImageItem]:
        for position in range(len(self)):
            yield self[position]

    def __repr__(self) -> str:
        classes = "no labels" if self.class_names is None else f"{len(self.class_names)} classes"
        return f"ImageSource({self.name!r}, {len(self)} images, {classes})"

    @property
    def image_ids(self) -> list[int]:
        """Ids in order."""
        return list(self._ids)

    @property
    def labels(self) -> dict[int, int]:
        """``{image_id: label}``; decodes nothing."""
        return dict(zip(self._ids, self._labels, strict=True))

    def column(self, name: str) -> dict[int, Any]:
        """``{image_id: value}`` of a column of the CSV file or data set; decodes no image.

        Raises
        ------
        SourceError
            If there is no such column; lists those there are.
        """
        if name not in self._columns:
            found = f"its columns are {', '.join(map(repr, self._columns))}" if self._columns else "it has no columns"
            raise SourceError(f"{self.name} has no column {name!r}: {found}.")
        values = self._columns[name]()
        return {image_id: values[image_id] for image_id in self._ids}

    def item(self, image_id: int) -> ImageItem:
        """The image with this id.

        Raises
        ------
        KeyError
            If the source has no such id.
        """
        if image_id not in self._positions:
            raise KeyError(f"{self.name} has no image with id {image_id}.")
        return self[self._positions[image_id]]

    def subset(self, positions: Sequence[int]) -> ImageSource:
        """The images at these positions, with the ids they have here."""
        return ImageSource(
            self.name,
            [self._ids[p] for p in positions],
            [self._labels[p] for p in positions],
            self._paths,
            self._opener,
            self.class_names,
            self._columns,
            self.dataset,
        )

    def without_labels(self) -> ImageSource:
        """The same images, none of which has a class."""
        bare = copy.copy(self)
        bare._labels, bare.class_names = [NO_LABEL] * len(self), None
        return bare

    def labelled(self, labels: Mapping[int, int], class_names: Sequence[str], dataset: str | None) -> ImageSource:
        """The same images with other classes: ``labels[image_id]``, a position in `class_names` or -1."""
        changed = copy.copy(self)
        changed._labels = [labels[image_id] for image_id in self._ids]
        changed.class_names, changed.dataset = list(class_names), dataset
        return changed

    def transformed(self, transform: Callable[[int, Image], Image]) -> ImageSource:
        """The same images, each passed upright through ``transform(image_id, image)`` after decoding."""

        def opener(image_id: int) -> Image:
            from PIL import ImageOps

            image = self._opener(image_id)
            image.load()
            return transform(image_id, ImageOps.exif_transpose(image))

        changed = copy.copy(self)
        changed._opener = opener
        return changed

    def limited(self, limit: int) -> ImageSource:
        """At most `limit` images, spread evenly over the source."""
        n = len(self)
        return self if limit >= n else self.subset([i * n // limit for i in range(limit)])
