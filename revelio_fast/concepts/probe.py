"""Probes: how well simple classifiers read the label off a feature. Linear, nearest centroid, nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast import seeds
from revelio_fast.concepts.logistic import TOLERANCE, logistic_path, principal_axes, problems_at_once
from revelio_fast.records import Record
from revelio_fast.statistics import Interval, images_key, marks, wilson_interval

GRID = tuple(10.0**exponent for exponent in range(-5, 3))
FOLDS = 5
NEIGHBOURS = 5
SELECTION_TOLERANCE = 1e-5  # ten times as strict as scikit-learn; the final fit is held to `TOLERANCE`


@dataclass(frozen=True)
class ProbeResult(Record):
    """Accuracy of a probe on held-out images.

    Attributes
    ----------
    kind : str
        ``"linear"``, ``"nearest centroid"`` or ``"5 nearest neighbours"``.
    accuracy : float
        On the test rows, between 0 and 1.
    interval : (float, float)
        95 % Wilson interval of `accuracy`.
    train_accuracy : float
        On the training rows; far above `accuracy` means few rows for many columns.
    chance : float
        Accuracy of always saying the training rows' commonest label.
    n_train, n_test, n_classes, d : int
        Rows, classes and columns.
    correct : str
        ``1`` for each test image that was classified right and ``0`` for the others, in the order of their ids: what
        paired tests need.
    images : str
        A digest of the test images' ids.
    C : float, optional
        Of a linear probe: inverse strength of the L2 penalty on the weights of standardised features.
    grid : list of float
        The values of C among which cross-validation chose; empty where C was given.
    cv_accuracy : list of float
        Mean accuracy over the folds for each value of `grid`.
    folds : int
        Folds of the cross-validation; 0 where C was given.
    converged : bool
        Whether the solver reached its tolerance.
    """

    kind: str
    accuracy: float
    interval: Interval
    train_accuracy: float
    chance: float
    n_train: int
    n_test: int
    n_classes: int
    d: int
    correct: str
    images: str
    C: float | None = None
    grid: list[float] = field(default_factory=list)
    cv_accuracy: list[float] = field(default_factory=list)
    folds: int = 0
    converged: bool = True

    @property
    def at_edge(self) -> bool:
        """Whether the chosen C is the smallest or the largest of the grid."""
        return bool(self.grid) and self.C in (self.grid[0], self.grid[-1])


def linear_probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    C: float | None = None,
    grid: Sequence[float] = GRID,
    folds: int = FOLDS,
    max_iter: int = 1000,
    seed: int = 0,
    test_ids: Tensor | None = None,
) -> ProbeResult:
    """Train multinomial logistic regression on standardised features and test it.

    The penalty is chosen on the training rows: the C of `grid` with the best mean accuracy over stratified folds, the
    smallest of equals, as scikit-learn's ``LogisticRegressionCV`` chooses it; then the model is fitted to all of them.

    Parameters
    ----------
    train_x, test_x : Tensor
        ``[rows, d]`` floating-point features, finite.
    train_y, test_y : Tensor
        ``[rows]`` integer labels.
    C : float, optional
        Use this inverse strength of the L2 penalty instead of choosing one.
    grid : sequence of float
        Values of C to choose from.
    folds : int
        Folds of the cross-validation; fewer where the smallest class with two rows or more has fewer rows.
    max_iter : int
        Limit of the solver's steps for each C.
    seed : int
        Of the folds.
    test_ids : Tensor, optional
        ``[rows]`` ids of the test images, which make results comparable image by image; row numbers by default.

    Raises
    ------
    ValueError
        For wrong shapes, fewer than two classes, features that are not finite, or an empty test set.
    """
    rows = _rows(train_x, train_y, test_x, test_y, test_ids)
    axes, k = principal_axes(rows.x), len(rows.classes)
    z = rows.x @ axes
    ordered, scores, made = sorted(float(value) for value in grid), [], 0
    if C is None:
        if not ordered or ordered[0] <= 0:
            raise ValueError(f"grid must hold values of C above 0, got {list(grid)}.")
        fold_of = stratified_folds(rows.y, folds, seed)
        made = int(fold_of.max()) + 1
        scores = _cross_validated(z, rows.y, k, fold_of, ordered, max_iter)
        C = ordered[scores.index(max(scores))]
    everything = torch.ones(1, len(z), dtype=torch.bool)
    # The path leads up to C, so that the last fit starts close to its solution.
    path = [value for value in ordered if value < C] + [C]
    *_, fit = logistic_path(z, rows.y, k, everything, path, max_iter, SELECTION_TOLERANCE, TOLERANCE)
    guesses = [fit.classes(0, each) for each in (z, rows.test_x @ axes)]
    result = _result("linear", rows, *guesses)
    return replace(
        result, C=C, grid=ordered if made else [], cv_accuracy=scores, folds=made, converged=bool(fit.converged.all())
    )


def centroid_probe(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, *, test_ids: Tensor | None = None
) -> ProbeResult:
    """Give each row the class whose mean is nearest, on standardised features; parameters as in `linear_probe`."""
    rows = _rows(train_x, train_y, test_x, test_y, test_ids)
    x, test = rows.x, rows.test_x
    sums = torch.zeros(len(rows.classes), x.shape[1], dtype=x.dtype).index_add_(0, rows.y, x)
    centroids = sums / torch.bincount(rows.y)[:, None]
    return _result("nearest centroid", rows, *(_distances(each, centroids).argmin(1) for each in (x, test)))


def neighbour_probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    neighbours: int = NEIGHBOURS,
    test_ids: Tensor | None = None,
) -> ProbeResult:
    """Give each row the commonest class of its nearest training rows, on standardised features (Euclidean distance).

    Ties go to the class of the lower number. Other parameters as in `linear_probe`. A training row is its own
    neighbour, so that the training accuracy says little here.
    """
    rows = _rows(train_x, train_y, test_x, test_y, test_ids)
    count = min(neighbours, len(rows.y))
    x, test = rows.x.float(), rows.test_x.float()

    def guess(block: Tensor) -> Tensor:
        nearest = _distances(block, x).topk(count, largest=False).indices
        votes = torch.zeros(len(block), len(rows.classes)).scatter_add_(1, rows.y[nearest], torch.ones(nearest.shape))
        return votes.argmax(1)

    size = max(1, 2**24 // len(x))
    guesses = [torch.cat([guess(block) for block in each.split(size)]) for each in (x, test)]
    return _result(f"{count} nearest neighbours", rows, *guesses)


def stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Which fold each row belongs to, ``[n]`` int64: classes are spread evenly over the folds, their rows shuffled.

    There are no more folds than the smallest class has rows, of the classes with two rows or more.

    Raises
    ------
    ValueError
        If no class has two rows.
    """
    counts = torch.bincount(labels)
    counts = counts[counts > 1]
    if not len(counts):
        raise ValueError("No class has two training rows: give C, as there is nothing to cross-validate with.")
    folds = max(2, min(folds, int(counts.min())))
    order = torch.randperm(len(labels), generator=seeds.generator(seed, "probe.folds"))
    order = order[labels[order].argsort(stable=True)]
    found = torch.empty(len(labels), dtype=torch.int64)
    # Dealt like cards, class after class: the folds differ by one row at most.
    found[order] = torch.arange(len(labels)) % folds
    return found


class _Rows(NamedTuple):
    """Rows standardised by the training rows, float64; labels are positions in `classes`, -1 for one not there."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: Tensor
    test_ids: Tensor


def _rows(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, test_ids: Tensor | None) -> _Rows:
    x, y = _checked("train", train_x, train_y)
    test, test_labels = _checked("test", test_x, test_y)
    if x.shape[1] != test.shape[1]:
        raise ValueError(f"Training features have {x.shape[1]} columns, test features {test.shape[1]}.")
    classes, y = y.unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"A probe needs at least two classes in the training rows, got {len(classes)}.")
    place = torch.searchsorted(classes, test_labels).clamp_max(len(classes) - 1)
    known = torch.where(classes[place] == test_labels, place, -1)
    ids = torch.arange(len(test_labels)) if test_ids is None else test_ids.cpu()
    if ids.shape != test_labels.shape:
        raise ValueError(f"test_ids must name each of the {len(test_labels)} test rows, got {list(ids.shape)}.")
    mean, scale = x.mean(0), x.std(0, correction=0)
    # A constant column keeps a scale of 1; its deviation is rounding.
    scale = torch.where(scale > 10 * torch.finfo(x.dtype).eps * mean.abs(), scale, 1.0)
    return _Rows((x - mean) / scale, y, (test - mean) / scale, known, classes, ids)


def _checked(name: str, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    x = torch.as_tensor(features).detach().cpu()
    y = torch.as_tensor(labels).detach().cpu()
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(y):
        raise ValueError(
            f"The {name} rows must be features [rows, d] with one label each, got {list(x.shape)} and {list(y.shape)}."
        )
    if y.is_floating_point():
        raise ValueError(f"The {name} labels must be integers, got {y.dtype}.")
    if not x.isfinite().all():
        raise ValueError(f"The {name} features hold NaN or infinity: look at the images they come from.")
    return x.double(), y.long()


def _cross_validated(
    z: Tensor, labels: Tensor, n_classes: int, fold_of: Tensor, grid: Sequence[float], max_iter: int
) -> list[float]:
    """Mean accuracy over the folds for each C."""
    folds = range(int(fold_of.max()) + 1)
    at_once = problems_at_once(len(z), z.shape[1], n_classes, len(folds))
    sums = torch.zeros(len(grid), dtype=torch.float64)
    for first in folds[::at_once]:
        some = folds[first : first + at_once]
        used = torch.stack([fold_of != fold for fold in some])
        for number, fit in enumerate(logistic_path(z, labels, n_classes, used, grid, max_iter, SELECTION_TOLERANCE)):
            for problem, fold in enumerate(some):
                held = fold_of == fold
                sums[number] += (fit.classes(problem, z[held]) == labels[held]).double().mean()
    return (sums / len(folds)).tolist()


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    """Squared Euclidean distances ``[rows, others]``, less what all others have in common."""
    return others.square().sum(1) - 2 * rows @ others.T


def _result(kind: str, rows: _Rows, train_guesses: Tensor, guesses: Tensor) -> ProbeResult:
    correct = guesses == rows.test_y
    return ProbeResult(
        kind=kind,
        accuracy=float(correct.double().mean()),
        interval=wilson_interval(int(correct.sum()), len(correct)),
        train_accuracy=float((train_guesses == rows.y).double().mean()),
        chance=float((rows.test_y == torch.bincount(rows.y).argmax()).double().mean()),
        n_train=len(rows.y),
        n_test=len(correct),
        n_classes=len(rows.classes),
        d=rows.x.shape[1],
        correct=marks(correct, rows.test_ids),
        images=images_key(rows.test_ids),
    )
