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
    """Solutions for one C: weights ``[K, P, r]``, intercepts ``[K, P]``, and whether each problem converged."""

    C: float
    weights: Tensor
    intercepts: Tensor
    converged: Tensor

    def classes(self, problem: int, z: Tensor) -> Tensor:
        """The likeliest class of rows ``[n, r]``, ``[n]``."""
        return (z @ self.weights[:, problem].T + self.intercepts[:, problem]).argmax(1)


def logistic_path(
    z: Tensor,
    labels: Tensor,
    n_classes: int,
    used: Tensor,
    grid: Sequence[float],
    max_iter: int,
    tolerance: float = TOLERANCE,
    last_tolerance: float | None = None,
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
    last_tolerance : float, optional
        The same for the last C of the grid, where the path only leads up to it.
    """
    problems = _Problems(z, labels, n_classes, used)
    theta = torch.zeros(n_classes, len(used), z.shape[1] + 1, dtype=z.dtype)
    for number, C in enumerate(grid, start=1):
        held_to = last_tolerance if last_tolerance is not None and number == len(grid) else tolerance
        theta, converged = _minimise(problems, theta, 1 / (C * problems.counts), max_iter, held_to)
        yield Path(C, theta[..., :-1], theta[..., -1], converged)


def problems_at_once(n: int, r: int, n_classes: int, wanted: int) -> int:
    """How many problems fit into `BUDGET`, at least 1 and at most `wanted`."""
    bytes_each = 8 * n_classes * max(4 * n, (2 * MEMORY + 4) * (r + 1))
    return max(1, min(wanted, BUDGET // bytes_each))


class _Problems:
    """The mean cross-entropy of P problems that share their rows.

    Parameters are ``[K, P, r + 1]``, intercepts last, and logits ``[K, P, n]``: what is summed over classes is summed
    over whole rows of memory.
    """

    def __init__(self, z: Tensor, labels: Tensor, n_classes: int, used: Tensor) -> None:
        self.z, self.squares = z, z * z
        self.counts = used.sum(1).to(z.dtype)
        self.shares = used.to(z.dtype) / self.counts[:, None]
        self.labels = labels.expand(1, len(used), -1)
        self.targets = F.one_hot(labels, n_classes).T.to(z.dtype)[:, None]

    def logits(self, theta: Tensor) -> Tensor:
        """``[K, P, n]``."""
        return theta[..., :-1] @ self.z.T + theta[..., -1:]

    def losses(self, logits: Tensor) -> Tensor:
        """``[P]``."""
        picked = logits.gather(0, self.labels)[0]
        return ((logits.logsumexp(0) - picked) * self.shares).sum(1)

    def gradients(self, logits: Tensor) -> Tensor:
        """``[K, P, r + 1]``."""
        errors = ((logits - logits.logsumexp(0)).exp_() - self.targets) * self.shares
        return torch.cat([errors @ self.z, errors.sum(2, keepdim=True)], 2)

    def curvatures(self, logits: Tensor) -> Tensor:
        """Diagonal of the Hessian, ``[K, P, r + 1]``."""
        likely = (logits - logits.logsumexp(0)).exp_()
        each = likely * (1 - likely) * self.shares
        return torch.cat([each @ self.squares, each.sum(2, keepdim=True)], 2)


def _minimise(
    problems: _Problems, theta: Tensor, penalty: Tensor, max_iter: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """L-BFGS on all problems in step, each with its own step length; converged ones stand still."""
    decay = penalty[:, None].repeat(1, theta.shape[2])
    decay[:, -1] = 0
    logits = problems.logits(theta)

    def losses_at(theta: Tensor, logits: Tensor) -> Tensor:
        return problems.losses(logits) + 0.5 * (decay * theta * theta).sum((0, 2))

    losses, gradient = losses_at(theta, logits), problems.gradients(logits) + decay * theta
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    done = gradient.abs().amax((0, 2)) <= tolerance
    for number in range(max_iter):
        if done.all():
            break
        if number % REFRESH == 0:
            curvature = problems.curvatures(logits) + decay + 1e-12
        direction = _direction(gradient, pairs, curvature)
        slope = (direction * gradient).sum((0, 2))
        # The logits are linear in the parameters: a line search costs no product with the rows.
        along, length = problems.logits(direction), torch.where(done, 0.0, 1.0).to(theta.dtype)
        for _ in range(30):
            moved = theta + length[:, None] * direction
            moved_logits = logits + length[:, None] * along
            tried = losses_at(moved, moved_logits)
            worse = ~(tried <= losses + ARMIJO * length * slope + 1e-14 * losses.abs()) & ~done
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
        new_gradient = problems.gradients(moved_logits) + decay * moved
        step, change = moved - theta, new_gradient - gradient
        product = (step * change).sum((0, 2))
        # A problem that stands still has no curvature to add.
        weight = torch.where(product > 0, 1 / product, 0.0)
        pairs = [*pairs[1 - MEMORY :], (step, change, weight)]
        theta, logits, losses, gradient = moved, moved_logits, tried, new_gradient
        done = gradient.abs().amax((0, 2)) <= tolerance
    return theta, done


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], curvature: Tensor) -> Tensor:
    """Minus the inverse curvature times the gradient, by the two-loop recursion (Nocedal 1980)."""
    direction, factors = -gradient, []
    for step, change, weight in reversed(pairs):
        factor = weight * (step * direction).sum((0, 2))
        direction = direction - factor[:, None] * change
        factors.append(factor)
    direction = direction / curvature
    for (step, change, weight), factor in zip(pairs, reversed(factors), strict=True):
        direction = direction + (factor - weight * (change * direction).sum((0, 2)))[:, None] * step
    return direction
