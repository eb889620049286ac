"""What a k-SAE training is told: `KSAEConfig`, each field checked with what is allowed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

ENGINES = ("fused", "autograd")
SEMANTICS = ("paper", "official")
PRECISIONS = ("fp32", "fast", "bf16")
DATA = ("auto", "memory", "disk")
INITIALISATIONS = ("tied", "scaled", "authors", "data")
LOSSES = ("fvu", "root_fvu")

# What a recipe sets where the user does not. docs/training.md shows what each was chosen from.
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {
        "lr": 4e-4,
        "warmup_steps": 500,
        "lr_decay": 0.0,
        "init": "tied",
        "loss": "fvu",
        "beta2": 0.999,
        "aux_k": 0,
    },
    "best": {
        "lr": None,  # by the width of the features, see `for_width`
        "warmup_steps": 50,
        "lr_decay": 0.0,
        "init": "tied",
        "loss": "fvu",
        "beta2": 0.999,
        "aux_k": 0,
    },
}
LR_BY_WIDTH = 0.03  # of recipe "best": times 1 / sqrt(d), for a step of Adam turns a unit row by up to lr sqrt(d)


@dataclass(frozen=True)
class KSAEConfig:
    """Settings of `train_ksae`; the defaults are the paper's (section 3 and appendix F) where it gives them.

    Parameters
    ----------
    k : int
        Active latents per row.
    expansion_factor : int
        Latents per feature dimension; ignored where `n_latents` is given.
    n_latents : int, optional
        Number of latents.
    steps : int
        Optimiser steps (the authors' code: 83,886,080 rows / 8192).
    batch_size : int
        Rows per step. With fewer rows than this, every step takes all of them.
    lr : float, optional
        Adam's learning rate after the warm-up. With recipe "best" and without a value it is None until `train_ksae`
        knows the width d of the features, and then 0.03 / sqrt(d).
    warmup_steps : int, optional
        Steps of linear warm-up; constant afterwards.
    engine : {"fused", "autograd"}
        "fused": one optimiser sweep over the latents (`ops.adam_unit_norm_step_`). "autograd": `torch.optim.Adam` on
        the differentiable ops. Both compute the same numbers up to rounding.
    semantics : {"paper", "official"}
        "paper": decoder rows have unit norm after every update; tied initialisation. "official": the authors' code:
        rows are normalised before every step and not after the last one, the schedule is one step ahead (first
        learning rate 2 / warmup_steps), `b_pre` is the mean of one batch, their initialisation, short last batches,
        and statistics of dense pre-activations in the columns ``official_l0`` and ``official_dead``.
    seed : int
        Of the initialisation, the held-out rows and the shuffling. Draw synthetic data from another one: the first
        random numbers of a seed are the initial decoder rows.
    relu : bool
        Clamp selected pre-activations at zero. Neither the paper's Eq. 3 nor the authors' code does.
    precision : {"fast", "fp32", "bf16"}
        Promise of `ops.topk_encode` in training.
    aux_k : int
        Dead latents that rebuild the residual in the AuxK loss (Gao et al. 2024); 0 switches it off. By the recipe.
    aux_coefficient : float
        Weight of that loss.
    dead_after : int, optional
        A latent is dead after so many rows without being active; default: twice the data, at least 10 batches and at
        most 10 million, and with AuxK at most 50 batches, so that it begins in short runs too.
    holdout : float, optional
        Share of the rows that is kept out of training to measure the held-out FVU, where no `validation` is given; at
        most 65,536 rows, and none where it would be fewer than 10. Default: 0.05, with official semantics 0.
    log_every, eval_every, checkpoint_every : int
        Steps between history rows, held-out evaluations and checkpoints.
    data : {"auto", "memory", "disk"}
        Where a store's rows are taken from: "disk" reads each batch while the step before runs; "auto" holds a store
        that takes at most a third of the free memory. The numbers are the same bits.
    recipe : {"paper", "best"}
        Where `lr`, `warmup_steps`, `lr_decay`, `init`, `loss`, `beta2` and `aux_k` come from if they are not given.
        "paper": the paper's values, and the authors' code's where the paper is silent, but for a tied initialisation.
        "best": a learning rate by the width of the features and a short warm-up, which fit better in runs of some
        thousand steps and find more planted directions; see docs/training.md. The values are filled in at once, so
        `dataclasses.replace` keeps them.
    lr_decay : float, optional
        Share of `steps` at the end over which the learning rate falls linearly to zero. A run with decay cannot be
        continued with more steps.
    init : {"tied", "scaled", "authors", "data"}, optional
        First weights. "tied": random unit decoder rows, the encoder equal to them. "scaled": the same, with the encoder
        times the one number that minimises the error of the first batch. "authors": the distributions of the authors'
        code, untied. "data": decoder rows are random training rows with noise, the encoder as for "scaled".
    loss : {"fvu", "root_fvu"}, optional
        What is minimised. The gradient of the square root is that of the FVU over twice the root: its size falls less
        as the fit improves.
    beta2 : float, optional
        Adam's second decay rate.
    """

    k: int = 32
    expansion_factor: int = 64
    n_latents: int | None = None
    steps: int = 10_240
    batch_size: int = 8192
    lr: float | None = None
    warmup_steps: int | None = None
    engine: str = "fused"
    semantics: str = "paper"
    seed: int = 0
    relu: bool = False
    precision: str = "fast"
    aux_k: int | None = None
    aux_coefficient: float = 1 / 32
    dead_after: int | None = None
    holdout: float | None = None
    log_every: int = 20
    eval_every: int = 200
    checkpoint_every: int = 1000
    data: str = "auto"
    recipe: str = "paper"
    lr_decay: float | None = None
    init: str | None = None
    loss: str | None = None
    beta2: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("recipe", tuple(RECIPES)), ("semantics", SEMANTICS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        self._fill_in()
        whole = ("k", "expansion_factor", "steps", "batch_size", "log_every", "eval_every", "checkpoint_every")
        for name in whole:
            _whole(name, getattr(self, name), 1)
        for name in ("warmup_steps", "seed", "aux_k"):
            _whole(name, getattr(self, name), 0)
        if self.seed >= 2**32:  # the shuffling multiplies it, within 63 bits
            raise ValueError(f"seed must be below 2**32, got {self.seed}")
        for name in ("n_latents", "dead_after"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), 1)
        if self.n_latents is not None and self.k > self.n_latents:
            raise ValueError(f"k must not exceed n_latents = {self.n_latents}, got {self.k}")
        by_width = self.lr is None and RECIPES[self.recipe]["lr"] is None
        if not by_width and not (isinstance(self.lr, int | float) and 0 < self.lr < math.inf):
            raise ValueError(f"lr must be a positive number, got {self.lr!r}")
        if not (isinstance(self.aux_coefficient, int | float) and 0 <= self.aux_coefficient < math.inf):
            raise ValueError(f"aux_coefficient must be a number of at least 0, got {self.aux_coefficient!r}")
        if not (isinstance(self.holdout, int | float) and 0 <= self.holdout < 1):
            raise ValueError(f"holdout must be a share in [0, 1), got {self.holdout!r}")
        for name in ("lr_decay", "beta2"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < 1):
                raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
        choices = (
            ("engine", ENGINES), ("precision", PRECISIONS), ("data", DATA), ("init", INITIALISATIONS), ("loss", LOSSES)
        )  # fmt: skip
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")

    def _fill_in(self) -> None:
        """Give the fields that were left to the recipe their values."""
        official = self.semantics == "official"
        if official and self.recipe != "paper":
            raise ValueError(
                f"recipe={self.recipe!r} and semantics='official' contradict each other: leave one of the two out, and "
                "give the fields that you want to change"
            )
        values = RECIPES[self.recipe] | {"holdout": 0.0 if official else 0.05}
        if official:
            values["init"] = "authors"
        for name, value in values.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def numbers(self) -> dict[str, Any]:
        """The settings that a run's numbers follow from, by name: all but where its rows are taken from."""
        return {name: value for name, value in asdict(self).items() if name != "data"}

    def latents(self, d: int) -> int:
        """Number of latents for features of width `d`."""
        n = self.n_latents if self.n_latents is not None else self.expansion_factor * d
        if self.k > n:
            raise ValueError(f"k must not exceed the {n} latents ({self.expansion_factor} x width {d}), got {self.k}")
        return n

    @property
    def betas(self) -> tuple[float, float]:
        """Adam's decay rates."""
        assert self.beta2 is not None, "filled in by __post_init__"
        return 0.9, self.beta2

    def for_width(self, d: int) -> KSAEConfig:
        """The same settings with the learning rate that the recipe leaves to the width `d` of the features."""
        return self if self.lr is not None else replace(self, lr=LR_BY_WIDTH / math.sqrt(d))

    def lr_at(self, step: int) -> float:
        """Learning rate of the step with this number, counted from 1."""
        ahead = 1 if self.semantics == "official" else 0
        lr, warmup, decay = self.lr, self.warmup_steps, self.lr_decay
        assert lr is not None and warmup is not None and decay is not None, "for_width() comes first"
        lr *= min(1.0, (step + ahead) / max(1, warmup))
        return lr * min(1.0, (self.steps - step + 1) / (decay * self.steps)) if decay else lr

    def dead_rows(self, batch_size: int, rows: int) -> int:
        """Rows without being active after which a latent is dead, for batches of this size from so many rows."""
        if self.dead_after is not None:
            return self.dead_after
        most = min(10_000_000, 50 * batch_size) if self.aux_k else 10_000_000
        return min(most, max(10 * batch_size, 2 * rows))


def _whole(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
