"""Predictions on disk: a CSV file that grows image by image, and a JSON file with accuracy and confusion beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revelio_fast.atomic import atomic_write_json
from revelio_fast.classifiers.results import by_class, confusion_matrix
from revelio_fast.csv_text import csv_text, parse_csv, write_csv
from revelio_fast.data import BrokenImageError, ImageItem, ImageSource
from revelio_fast.statistics import wilson_interval

COLUMNS = ("image_id", "content", "path", "label", "predicted", "label_number", "predicted_number")


@dataclass(frozen=True)
class Classified:
    """Predicted classes of a source's images.

    Attributes
    ----------
    image_ids, labels, predicted : Tensor
        int64 ``[N]``, as positions in `class_names`; label -1 means none.
    class_names : list of str
    seconds_per_image : float or None
        Wall time with decoding and the diffusion model, of the images that this call classified; None if there were
        none.
    timed : int
        How many those were.
    """

    image_ids: Tensor
    labels: Tensor
    predicted: Tensor
    class_names: list[str]
    seconds_per_image: float | None
    timed: int

    @property
    def accuracy(self) -> float | None:
        """Share of the labelled images that are classified right; None without any."""
        known = self.labels >= 0
        return float((self.predicted == self.labels)[known].double().mean()) if bool(known.any()) else None

    @property
    def confusion(self) -> Tensor:
        """int64 ``[classes, classes]``: rows are true classes, columns predicted ones."""
        known = self.labels >= 0
        return confusion_matrix(self.labels[known], self.predicted[known], len(self.class_names))

    def metrics(self) -> dict[str, Any]:
        """The results as JSON values; accuracy and confusion only where there are labels."""
        found: dict[str, Any] = {
            "images": len(self.image_ids),
            "labelled": int((self.labels >= 0).sum()),
            "seconds_per_image": self.seconds_per_image,
            "timed_images": self.timed,
            "class_names": self.class_names,
        }
        if self.accuracy is not None:
            correct = int(self.confusion.diagonal().sum())
            found["accuracy"] = self.accuracy
            found["interval"] = list(wilson_interval(correct, found["labelled"]))
            found["per_class_accuracy"] = by_class(self.confusion, self.class_names)
            found["confusion"] = self.confusion.tolist()
        return found


class PredictionLog:
    """The predictions so far, and, with a path, the files that hold them.

    ``NAME.csv`` has ``image_id``, ``content`` (a digest of the image's bytes), ``path``, the names of the true and the
    predicted class (``label, predicted``), their numbers (``label_number, predicted_number``; label and its number are
    empty where there is none), and, best first, the names and scores of the leading classes. Every image is written as
    it is classified. Opening the same file again keeps the predictions of images that are still in the source and have
    not changed, with the labels they have now. ``NAME.json`` has the settings, and in the end the metrics.

    Parameters
    ----------
    path : path or None
        Of the CSV file; None keeps the predictions in memory.
    source : ImageSource
        The images that are classified.
    labels : mapping of int to int
        ``{image_id: position in class_names or -1}``.
    settings : dict
        All that the predictions depend on besides the images, as JSON values.
    class_names : sequence of str
    score : str
        What the scores are: ``"probability"`` or ``"error"``.
    top : int
        Leading classes in a line.

    Raises
    ------
    ValueError
        If the file holds predictions made with other settings.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        source: ImageSource,
        labels: Mapping[int, int],
        settings: dict[str, Any],
        class_names: Sequence[str],
        score: str,
        top: int,
    ) -> None:
        if top < 1:
            raise ValueError(f"top is {top}: a line of predictions names at least one class")
        self.class_names = list(class_names)
        self._top = min(top, len(self.class_names))
        leading = [f"{what}_{place}" for place in range(1, self._top + 1) for what in ("class", score)]
        self._columns = [*COLUMNS, *leading]
        self._path = Path(path) if path is not None else None
        self._source = source
        self._label_of = labels
        self._settings = json.loads(json.dumps({**settings, "columns": self._columns, "classes": self.class_names}))
        self._ids: list[int] = []
        self._labels: list[int] = []
        self._predicted: list[int] = []
        if self._path is not None:
            if self._path.suffix.lower() != ".csv":
                raise ValueError(f"Predictions are written as CSV: {self._path} should end in .csv")
            self._open(self._path)

    @property
    def done(self) -> frozenset[int]:
        """Ids of the images that are classified."""
        return frozenset(self._ids)

    def append(self, item: ImageItem, content: bytes, ranking: Sequence[int], scores: Sequence[float]) -> None:
        """Add an image: the digest of its bytes, classes, best first, and their scores."""
        label = self._label_of[item.image_id]
        self._ids.append(item.image_id)
        self._labels.append(label)
        self._predicted.append(ranking[0])
        if self._path is None:
            return
        true = self._true(label)
        named = [true[0], self.class_names[ranking[0]], true[1], ranking[0]]
        row: list[Any] = [item.image_id, content.hex(), item.path, *named]
        for place in range(self._top):
            row += [self.class_names[ranking[place]], f"{scores[place]:.6g}"]
        with self._path.open("a", newline="", encoding="utf-8") as file:
            file.write(csv_text([row]))

    def finish(self, seconds: float, timed: int) -> Classified:
        """The result; written to ``NAME.json`` too."""
        found = Classified(
            torch.tensor(self._ids, dtype=torch.int64),
            torch.tensor(self._labels, dtype=torch.int64),
            torch.tensor(self._predicted, dtype=torch.int64),
            self.class_names,
            seconds / timed if timed else None,
            timed,
        )
        if self._path is not None:
            about = {"settings": self._settings, "complete": True, "metrics": found.metrics()}
            atomic_write_json(self._path.with_suffix(".json"), about)
        return found

    def _open(self, path: Path) -> None:
        about = path.with_suffix(".json")
        if path.is_file():
            if _settings_in(about) != self._settings:
                raise ValueError(
                    f"{path} holds predictions made with other settings or by another model (see {about}): "
                    "choose another file, or delete it"
                )
            rows = [row for row in self._complete_rows(path) if self._is_current(int(row[0]), row[1])]
            self._ids = [int(row[0]) for row in rows]
            self._labels = [self._label_of[image_id] for image_id in self._ids]
            self._predicted = [int(row[6]) for row in rows]
            for row, label in zip(rows, self._labels, strict=True):
                row[3], row[5] = map(str, self._true(label))
        else:
            rows = []
            atomic_write_json(about, {"settings": self._settings, "complete": False})
        # Written again as a whole: a kill may have cut the last line.
        write_csv(path, self._columns, rows)

    def _is_current(self, image_id: int, content: str) -> bool:
        """Whether the source has the image, with the bytes that were classified."""
        if image_id not in self._label_of:
            return False
        try:
            return self._source.item(image_id).content.hex() == content
        except BrokenImageError:
            return False

    def _true(self, label: int) -> tuple[str, int | str]:
        """Name and number of an image's class, empty where it has none."""
        return (self.class_names[label], label) if label >= 0 else ("", "")

    def _complete_rows(self, path: Path) -> list[list[str]]:
        text = path.read_text(encoding="utf-8")
        rows = parse_csv(text)[1:]
        if rows and (not text.endswith("\n") or len(rows[-1]) != len(self._columns)):
            rows.pop()
        return rows


def matched_labels(source: ImageSource, class_names: Sequence[str]) -> tuple[dict[int, int], str | None]:
    """``{image_id: position in class_names or -1}``, and a note where classes could not be matched.

    Classes are matched by name; where no name is known on both sides, by number, if there are equally many.
    """
    labels = source.labels
    largest = max(labels.values(), default=-1)
    if largest < 0:
        return labels, None
    names = source.class_names
    if names is not None and not set(names) & set(class_names) and len(names) != len(class_names):
        return dict.fromkeys(labels, -1), (
            f"None of the {len(names)} classes of {source.name} ({', '.join(names[:3])} ...) is one of the "
            f"{len(class_names)} that are told apart ({', '.join(class_names[:3])} ...): accuracy was not measured."
        )
    if names is None or not set(names) & set(class_names):
        if largest >= len(class_names):
            return dict.fromkeys(labels, -1), (
                f"{source.name} has labels up to {largest}, but {len(class_names)} classes are told apart: "
                "accuracy was not measured."
            )
        return labels, None
    position = {name: number for number, name in enumerate(class_names)}
    unknown = sorted({names[label] for label in labels.values() if label >= 0} - set(position))
    note = None
    if unknown:
        note = f"Images of {', '.join(unknown[:5])} were not counted: the classifier does not know these classes."
    return {i: position.get(names[label], -1) if label >= 0 else -1 for i, label in labels.items()}, note


def _settings_in(about: Path) -> Any:
    try:
        return json.loads(about.read_text(encoding="utf-8")).get("settings")
    except (OSError, ValueError, AttributeError):
        return None
