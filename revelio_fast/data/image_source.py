"""What an image source is: items with names and ids that stay, decoded only when asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from revelio_fast.data.decode import Decoded, Encoded, content_digest, decode, unreadable
from revelio_fast.data.errors import BrokenImageError, SourceError
from revelio_fast.data.identity import image_ids_of, normal_name

if TYPE_CHECKING:
    from PIL.Image import Image

NO_LABEL = -1
Transform = Callable[[bytes, "Image"], "Image"]


@dataclass(frozen=True)
class ImageItem:
    """One image of a source.

    Attributes
    ----------
    name : str
        The key of the image in its source: see `open_source`.
    image_id : int
        A hash of the name, 63 bits.
    label : int
        Class index, -1 if there is none.
    path : str
        The file, or the data set and row: what an error message names.
    """

    name: str
    image_id: int
    label: int
    path: str
    opener: Callable[[], Encoded] = field(repr=False)
    transforms: tuple[Transform, ...] = field(default=(), repr=False)

    def decode(self) -> Decoded:
        """The image, upright, in whatever mode it is stored, and the digest of its encoded bytes.

        Raises
        ------
        BrokenImageError
            If the file is missing, is no image, is damaged, or has more pixels than PIL's limit.
        """
        try:
            image, content = decode(self.opener())
            for transform in self.transforms:
                image = transform(content, image)
        except unreadable() as error:
            raise self._broken(error) from error
        return Decoded(image, content)

    def load(self) -> Image:
        """The image of `decode`."""
        return self.decode().image

    @property
    def image(self) -> Image:
        """The decoded image; see `decode`."""
        return self.load()

    @property
    def content(self) -> bytes:
        """A 16-byte digest of the encoded bytes, for which nothing is decoded; of the pixels where there are no bytes.

        Raises
        ------
        BrokenImageError
            If the file cannot be read.
        """
        try:
            return content_digest(self.opener())
        except unreadable() as error:
            raise self._broken(error) from error

    def _broken(self, error: BaseException) -> BrokenImageError:
        return BrokenImageError(self.image_id, self.path, str(error).strip().rstrip(".") or type(error).__name__)


class ImageSource:
    """A sequence of images with names, ids, labels and class names; nothing is decoded before `ImageItem.load`.

    Parameters
    ----------
    name : str
        How reports and manifests call this source.
    names : sequence of str
        The key of each image, no two alike; ids are made from them.
    labels : sequence of int
        One per image; -1 means none.
    paths : callable
        ``paths(position)`` says where the image of ``names[position]`` lies.
    opener : callable
        ``opener(position)`` returns its file, its encoded bytes, or a PIL image. Called from several threads.
    class_names : sequence of str, optional
        ``class_names[label]``.
    columns : mapping of str to callable, optional
        Further columns, each read when asked for: ``columns[name]()[position]``.
    dataset : str, optional
        Which of `PAPER_DATASETS` it is.
    names_are : str
        What the names are, in words.

    Raises
    ------
    SourceError
        If two images have the same name, or ids that happen to be the same.
    """

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        labels: Sequence[int],
        paths: Callable[[int], str],
        opener: Callable[[int], Encoded],
        class_names: Sequence[str] | None = None,
        columns: Mapping[str, Callable[[], Sequence[Any]]] | None = None,
        dataset: str | None = None,
        names_are: str = "names",
    ):
        if len(names) != len(labels):
            raise SourceError(f"{name} has {len(names)} names but {len(labels)} labels.")
        self.name = name
        self.class_names = None if class_names is None else [str(each) for each in class_names]
        self.dataset = dataset
        self.names_are = names_are
        self._columns = dict(columns or {})
        self._names = [normal_name(each) for each in names]
        self._ids = image_ids_of(self._names, name)
        self._labels = list(labels)
        self._rows = list(range(len(names)))
        self._paths = paths
        self._opener = opener
        self._transforms: tuple[Transform, ...] = ()
        self._positions = {image_id: position for position, image_id in enumerate(self._ids)}

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, position: int) -> ImageItem:
        row, opener = self._rows[position], self._opener
        return ImageItem(
            self._names[position],
            self._ids[position],
            self._labels[position],
            self._paths(row),
            lambda: opener(row),
            self._transforms,
        )

    def __iter__(self) -> Iterator[ImageItem]:
        for position in range(len(self)):
            yield self[position]

    def __repr__(self) -> str:
        classes = "no labels" if self.class_names is None else f"{len(self.class_names)} classes"
        return f"ImageSource({self.name!r}, {len(self)} images, {classes})"

    @property
    def names(self) -> list[str]:
        """Names in order."""
        return list(self._names)

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
        return {image_id: values[row] for image_id, row in zip(self._ids, self._rows, strict=True)}

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
        """The images at these positions, with the names and ids they have here."""
        picked = copy.copy(self)
        for each in ("_names", "_ids", "_labels", "_rows"):
            values = getattr(self, each)
            setattr(picked, each, [values[p] for p in positions])
        picked._positions = {image_id: position for position, image_id in enumerate(picked._ids)}
        return picked

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

    def transformed(self, transform: Transform) -> ImageSource:
        """The same images, each passed upright through ``transform(content, image)`` after decoding."""
        changed = copy.copy(self)
        changed._transforms = (*self._transforms, transform)
        return changed

    def limited(self, limit: int) -> ImageSource:
        """At most `limit` images, spread evenly over the source."""
        n = len(self)
        return self if limit >= n else self.subset([i * n // limit for i in range(limit)])
