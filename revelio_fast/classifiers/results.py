"""What a Diff-C training run leaves behind: accuracy per epoch, confusion matrix, and the files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revelio_fast.atomic import atomic_write_json
from revelio_fast.classifiers.map_classifier import MapClassifier
from revelio_fast.csv_text import write_csv


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: its learning rate, what was measured in it, how long training took, and the test with it."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    train_seconds: float
    seconds: float


@dataclass
class DiffCResult:
    """The trained classifier and its record.

    `accuracy` is that of the last epoch, never the best on the test images; `best_accuracy` is given beside it since
    the paper does not say which of the two it reports.
    """

    model: MapClassifier
    history: list[EpochRecord]
    accuracy: float
    interval: tuple[float, float]
    """95 % Wilson interval of `accuracy`."""
    best_accuracy: float
    best_epoch: int
    confusion: Tensor
    """int64 [n_classes, n_classes]: rows are true classes, columns predicted ones."""
    n_train: int
    n_test: int
    parameters: int
    chance: float
    """Accuracy of always naming the class that is most frequent among the training maps."""
    correct: Tensor
    """bool [n_test]: which test maps were classified right, in the order of the test source."""
    class_names: list[str] | None = field(default=None)

    @property
    def per_class_accuracy(self) -> Tensor:
        """float64 [n_classes]: share of each class's test maps that are classified right; NaN where there are none."""
        return per_class_accuracy(self.confusion)

    def metrics(self) -> dict[str, Any]:
        """Return the scalar results as plain values for JSON."""
        return {
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "best_accuracy": self.best_accuracy,
            "best_epoch": self.best_epoch,
            "chance": self.chance,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "parameters": self.parameters,
            "seconds": sum(record.seconds for record in self.history),
            "train_seconds_per_image": sum(record.train_seconds for record in self.history)
            / (len(self.history) * self.n_train),
            "per_class_accuracy": by_class(self.confusion, self.names),
        }

    @property
    def names(self) -> list[str]:
        """One name for each class; the number where none is known."""
        return self.class_names or [str(number) for number in range(len(self.confusion))]

    def save(self, out_dir: str | Path) -> None:
        """Write ``model/``, ``history.csv``, ``confusion.csv`` and ``metrics.json`` into `out_dir`."""
        folder = Path(out_dir)
        self.model.save_pretrained(folder / "model")
        columns = [column.name for column in fields(EpochRecord)]
        write_csv(folder / "history.csv", columns, [list(asdict(record).values()) for record in self.history])
        rows = [[name, *row] for name, row in zip(self.names, self.confusion.tolist(), strict=True)]
        write_csv(folder / "confusion.csv", ["true \\ predicted", *self.names], rows)
        atomic_write_json(folder / "metrics.json", self.metrics())


def confusion_matrix(labels: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """Count ``[true, predicted]`` pairs into an int64 matrix ``[n_classes, n_classes]``."""
    pairs = labels.long() * n_classes + predicted.long()
    return torch.bincount(pairs, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def per_class_accuracy(confusion: Tensor) -> Tensor:
    """Share of each class that is classified right, float64 ``[n_classes]``; NaN for a class without images."""
    counts = confusion.sum(dim=1).double()
    return confusion.diagonal().double() / torch.where(counts > 0, counts, torch.nan)


def by_class(confusion: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Name, images and accuracy (None without images) of each class, as JSON values."""
    return [
        {"class": name, "images": images, "accuracy": share if images else None}
        for name, images, share in zip(
            names, confusion.sum(dim=1).tolist(), per_class_accuracy(confusion).tolist(), strict=True
        )
    ]
