"""What a Diff-C training run leaves behind: accuracy per epoch, confusion matrix, and the files that hold them."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revelio_fast.atomic import atomic_write_bytes, atomic_write_json
from revelio_fast.classifiers.map_classifier import MapClassifier


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
    class_names: list[str] | None = field(default=None)

    @property
    def per_class_accuracy(self) -> Tensor:
        """float64 [n_classes]: share of each class's test maps that are classified right; NaN where there are none."""
        counts = self.confusion.sum(dim=1).double()
        return self.confusion.diagonal().double() / torch.where(counts > 0, counts, torch.nan)

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
        }

    def save(self, out_dir: str | Path) -> None:
        """Write ``model/``, ``history.csv``, ``confusion.csv`` and ``metrics.json`` into `out_dir`."""
        folder = Path(out_dir)
        self.model.save_pretrained(folder / "model")
        columns = [column.name for column in fields(EpochRecord)]
        _write_csv(folder / "history.csv", columns, [list(asdict(record).values()) for record in self.history])
        names = self.class_names or [str(c) for c in range(len(self.confusion))]
        rows = [[name, *row] for name, row in zip(names, self.confusion.tolist(), strict=True)]
        _write_csv(folder / "confusion.csv", ["true \\ predicted", *names], rows)
        atomic_write_json(folder / "metrics.json", self.metrics())


def accuracy_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (95 % by default); (0, 1) without any trial."""
    if total == 0:
        return 0.0, 1.0
    share = correct / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def confusion_matrix(labels: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """Count ``[true, predicted]`` pairs into an int64 matrix ``[n_classes, n_classes]``."""
    pairs = labels.long() * n_classes + predicted.long()
    return torch.bincount(pairs, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def _write_csv(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    atomic_write_bytes(path, text.getvalue().encode())
