"""Multinomial logistic regression on standardised features, for several folds at once, along a path of penalties.

The same minimum as scikit-learn's ``LogisticRegression`` (L2 penalty of inverse strength C on the weights, none on the
intercepts), found faster: the features are rotated to their principal axes, where the curvature of the loss is nearly
diagonal, and its diagonal preconditions L-BFGS so that tens of steps suffice; folds are solved side by side in one
matrix product; each C starts from the solution of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MEMORY = 10  # pairs of steps and gradients that L-BFGS keeps
TOLERANCE = 1e-6  # largest gradient of the mean loss at the solution
REFRESH = 20  # steps after which the diagonal of the curvature is computed anew
ARMIJO = 1e-4
BUDGET = 2**28  # bytes of the logits, and of the memory, of problems that are solved side by side


def principal_axes(rows: Tensor) -> Tensor:
    """Orthonormal axes ``[d, r]`` that span centred rows ``[n, d]`` of rank r, float64.

    Features in these coordinates are the same features, and an L2 penalty on weights stays the same penalty.
    """
    n, d = rows.shape
    if d <= n:
        squares, axes = torch.linalg.eigh(rows.T @ rows)
    else:
        squares, left = torch.linalg.eigh(rows @ rows.T)
        axes = rows.T @ left / squares.clamp_min(torch.finfo(rows.dtype).tiny).sqrt()
    return axes[:, squares > squares[-1] * torch.finfo(rows.dtype).eps * max(n, d)]


class Path(NamedTuple):
    """Solutions for one C: weights ``[P, r, K]``, intercepts ``[P, K]``, and whether each problem converged."""

    C: float
    weights: Tensor
    intercepts: Tensor
    converged: Tensor


def logistic_path(
    z: Tensor,
    labels: Tensor,
    n_classes: int,
    used: Tensor,
    grid: Sequence[float],
    max_iter: int,
    tolerance: float = TOLERANCE,
) -> Iterator[Path]:
    """Solve P problems on subsets of the same rows, for each C of a rising grid.

    Parameters
    ----------
    z : Tensor
        ``[n, r]`` coordinates, float64.
    labels : Tensor
        ``[n]`` classes from 0 to `n_classes` - 1.
    used : Tensor
        ``[P, n]`` bool: the rows of each problem.
    grid : sequence of float
        Values of C.
    max_iter : int
        Most steps for each C.
    tolerance : float
        Largest gradient of the mean loss at a solution.
    """
    problems = _Problems(z, labels, n_classes, used)
    theta = torch.zeros(len(used), z.shape[1] + 1, n_classes, dtype=z.dtype)
    for C in grid:
        penalty = 1 / (C * problems.counts)
        theta, converged = _minimise(problems, theta, penalty, max_iter, tolerance)
        yield Path(C, theta[:, :-1], theta[:, -1], converged)


def problems_at_once(n: int, r: int, n_classes: int, wanted: int) -> int:
    """How many problems fit into `BUDGET`, at least 1 and at most `wanted`."""
    bytes_each = 8 * n_classes * max(3 * n, (2 * MEMORY + 4) * (r + 1))
    return max(1, min(wanted, BUDGET // bytes_each))


class _Problems:
    """The mean cross-entropy of P problems that share their rows; parameters are ``[P, r + 1, K]``, intercepts last."""

    def __init__(self, z: Tensor, labels: Tensor, n_classes: int, used: Tensor) -> None:
        self.z, self.squares, self.labels = z, z * z, labels
        self.counts = used.sum(1, keepdim=True).to(z.dtype)
        self.shares = used.T.to(z.dtype) / self.counts.T
        self.targets = F.one_hot(labels, n_classes).to(z.dtype)[:, None, :]

    def logits(self, theta: Tensor) -> Tensor:
        """``[n, P, K]``."""
        problems, size, classes = theta.shape
        flat = theta[:, :-1].permute(1, 0, 2).reshape(size - 1, problems * classes)
        return (self.z @ flat).reshape(len(self.z), problems, classes) + theta[:, -1]

    def losses(self, logits: Tensor) -> Tensor:
        """``[P]``."""
        picked = logits.gather(2, self.labels[:, None, None].expand(-1, logits.shape[1], 1))[..., 0]
        return ((logits.logsumexp(2) - picked) * self.shares).sum(0)

    def gradients(self, logits: Tensor) -> Tensor:
        """``[P, r + 1, K]``."""
        errors = (logits.softmax(2) - self.targets) * self.shares[..., None]
        rows, problems, classes = errors.shape
        weights = (self.z.T @ errors.reshape(rows, -1)).reshape(-1, problems, classes).permute(1, 0, 2)
        return torch.cat([weights, errors.sum(0)[:, None]], 1)

    def curvatures(self, logits: Tensor) -> Tensor:
        """Diagonal of the Hessian, ``[P, r + 1, K]``."""
        shares = logits.softmax(2)
        each = shares * (1 - shares) * self.shares[..., None]
        rows, problems, classes = each.shape
        weights = (self.squares.T @ each.reshape(rows, -1)).reshape(-1, problems, classes).permute(1, 0, 2)
        return torch.cat([weights, each.sum(0)[:, None]], 1)


def _minimise(
    problems: _Problems, theta: Tensor, penalty: Tensor, max_iter: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """L-BFGS on all problems in step, each with its own step length; converged ones stand still."""
    decay = torch.cat([penalty.expand(-1, theta.shape[1] - 1), torch.zeros_like(penalty)], 1)[..., None]
    logits = problems.logits(theta)

    def losses_at(theta: Tensor, logits: Tensor) -> Tensor:
        return problems.losses(logits) + 0.5 * (decay * theta * theta).sum((1, 2))

    losses, gradient = losses_at(theta, logits), problems.gradients(logits) + decay * theta
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    done = gradient.abs().amax((1, 2)) <= tolerance
    for number in range(max_iter):
        if done.all():
            break
        if number % REFRESH == 0:
            curvature = problems.curvatures(logits) + decay + 1e-12
        direction = _direction(gradient, pairs, curvature)
        slope = (direction * gradient).sum((1, 2))
        # The logits are linear in the parameters: a line search costs no product with the rows.
        along, length = problems.logits(direction), torch.where(done, 0.0, 1.0).to(theta.dtype)
        for _ in range(30):
            moved = theta + length[:, None, None] * direction
            moved_logits = logits + length[:, None] * along
            tried = losses_at(moved, moved_logits)
            worse = ~(tried <= losses + ARMIJO * length * slope + 1e-14 * losses.abs()) & ~done
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
        new_gradient = problems.gradients(moved_logits) + decay * moved
        step, change = moved - theta, new_gradient - gradient
        product = (step * change).sum((1, 2))
        # A problem that stands still has no curvature to add.
        weight = torch.where(product > 0, 1 / product, 0.0)
        pairs = [*pairs[1 - MEMORY :], (step, change, weight)]
        theta, logits, losses, gradient = moved, moved_logits, tried, new_gradient
        done = gradient.abs().amax((1, 2)) <= tolerance
    return theta, done


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], curvature: Tensor) -> Tensor:
    """Minus the inverse curvature times the gradient, by the two-loop recursion (Nocedal 1980)."""
    direction, factors = -gradient, []
    for step, change, weight in reversed(pairs):
        factor = weight * (step * direction).sum((1, 2))
        direction = direction - factor[:, None, None] * change
        factors.append(factor)
    direction = direction / curvature
    for (step, change, weight), factor in zip(pairs, reversed(factors), strict=True):
        direction = direction + (factor - weight * (change * direction).sum((1, 2)))[:, None, None] * step
    return direction
