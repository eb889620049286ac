"""`linear_probe`: how well a linear classifier reads the label off a feature."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of a linear probe.

    Attributes
    ----------
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
    converged : bool
        Whether the solver stopped by itself.
    """

    accuracy: float
    interval: tuple[float, float]
    train_accuracy: float
    chance: float
    n_train: int
    n_test: int
    n_classes: int
    d: int
    converged: bool

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return asdict(self)


def linear_probe(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, *, C: float = 1.0, max_iter: int = 1000
) -> ProbeResult:
    """Train logistic regression on standardised features and test it.

    Parameters
    ----------
    train_x, test_x : Tensor
        ``[rows, d]`` floating-point features, finite.
    train_y, test_y : Tensor
        ``[rows]`` integer labels.
    C : float
        Inverse strength of the L2 penalty on the weights of standardised features.
    max_iter : int
        Limit of the L-BFGS solver.

    Raises
    ------
    ValueError
        For wrong shapes, fewer than two classes, features that are not finite, or an empty test set.
    ImportError
        If scikit-learn is missing.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(
            "linear_probe needs scikit-learn, which is not installed: pip install 'revelio-fast[report]'"
        ) from error
    x, y = _checked("train", train_x, train_y)
    test_features, test_labels = _checked("test", test_x, test_y)
    if x.shape[1] != test_features.shape[1]:
        raise ValueError(f"Training features have {x.shape[1]} columns, test features {test_features.shape[1]}.")
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"A probe needs at least two classes in the training rows, got {len(classes)}.")
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=C, max_iter=max_iter)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(scaler.transform(x), y)
    accuracy = float((model.predict(scaler.transform(test_features)) == test_labels).mean())
    return ProbeResult(
        accuracy=accuracy,
        interval=wilson_interval(accuracy, len(test_labels)),
        train_accuracy=float((model.predict(scaler.transform(x)) == y).mean()),
        chance=float((test_labels == classes[counts.argmax()]).mean()),
        n_train=len(y),
        n_test=len(test_labels),
        n_classes=len(classes),
        d=x.shape[1],
        converged=not any(issubclass(w.category, ConvergenceWarning) for w in caught),
    )


def wilson_interval(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share measured on `n` cases; 95 % for the default z."""
    if n < 1:
        raise ValueError(f"An interval needs at least one case, got {n}.")
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _checked(name: str, features: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
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
    return x.float().numpy(), y.numpy()
