"""What a k-SAE training is told: `KSAEConfig`, each field checked with what is allowed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

ENGINES = ("fused", "autograd")
SEMANTICS = ("paper", "official")
PRECISIONS = ("fp32", "fast", "bf16")
DATA = ("auto", "memory", "disk")


@dataclass(frozen=True)
class KSAEConfig:
    """Settings of `train_ksae`; the defaults are the paper's (section 3 and supplement) where it gives them.

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
    lr : float
        Adam's learning rate after the warm-up.
    warmup_steps : int
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
        Of the initialisation, the held-out rows and the shuffling, each with random numbers of its own.
    relu : bool
        Clamp selected pre-activations at zero. Neither the paper's Eq. 3 nor the authors' code does.
    precision : {"fast", "fp32", "bf16"}
        Promise of `ops.topk_encode` in training.
    aux_k : int
        Dead latents that rebuild the residual in the AuxK loss (Gao et al. 2024); 0 switches it off.
    aux_coefficient : float
        Weight of that loss.
    dead_after : int, optional
        A latent is dead after so many rows without being active; default: twice the data, at least 10 batches and at
        most 10 million.
    holdout : float
        Share of the rows that is kept out of training to measure the held-out FVU, where no `validation` is given; at
        most 65,536 rows.
    log_every, eval_every, checkpoint_every : int
        Steps between history rows, held-out evaluations and checkpoints.
    data : {"auto", "memory", "disk"}
        Where a store's rows are taken from: "disk" reads each batch while the step before runs; "auto" holds a store
        that takes at most a third of the free memory. The numbers are the same bits.
    """

    k: int = 32
    expansion_factor: int = 64
    n_latents: int | None = None
    steps: int = 10_240
    batch_size: int = 8192
    lr: float = 4e-4
    warmup_steps: int = 500
    engine: str = "fused"
    semantics: str = "paper"
    seed: int = 0
    relu: bool = False
    precision: str = "fast"
    aux_k: int = 0
    aux_coefficient: float = 1 / 32
    dead_after: int | None = None
    holdout: float = 0.05
    log_every: int = 20
    eval_every: int = 200
    checkpoint_every: int = 1000
    data: str = "auto"

    def __post_init__(self) -> None:
        whole = ("k", "expansion_factor", "steps", "batch_size", "log_every", "eval_every", "checkpoint_every")
        for name in whole:
            _whole(name, getattr(self, name), 1)
        for name in ("warmup_steps", "seed", "aux_k"):
            _whole(name, getattr(self, name), 0)
        for name in ("n_latents", "dead_after"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), 1)
        if self.n_latents is not None and self.k > self.n_latents:
            raise ValueError(f"k must not exceed n_latents = {self.n_latents}, got {self.k}")
        if not (isinstance(self.lr, int | float) and 0 < self.lr < math.inf):
            raise ValueError(f"lr must be a positive number, got {self.lr!r}")
        if not (isinstance(self.aux_coefficient, int | float) and 0 <= self.aux_coefficient < math.inf):
            raise ValueError(f"aux_coefficient must be a number of at least 0, got {self.aux_coefficient!r}")
        if not (isinstance(self.holdout, int | float) and 0 <= self.holdout < 1):
            raise ValueError(f"holdout must be a share in [0, 1), got {self.holdout!r}")
        choices = (("engine", ENGINES), ("semantics", SEMANTICS), ("precision", PRECISIONS), ("data", DATA))
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")

    def numbers(self) -> dict[str, Any]:
        """The settings that a run's numbers follow from, by name: all but where its rows are taken from."""
        return {name: value for name, value in asdict(self).items() if name != "data"}

    def latents(self, d: int) -> int:
        """Number of latents for features of width `d`."""
        n = self.n_latents if self.n_latents is not None else self.expansion_factor * d
        if self.k > n:
            raise ValueError(f"k must not exceed the {n} latents ({self.expansion_factor} x width {d}), got {self.k}")
        return n

    def lr_at(self, step: int) -> float:
        """Learning rate of the step with this number, counted from 1."""
        ahead = 1 if self.semantics == "official" else 0
        return self.lr * min(1.0, (step + ahead) / max(1, self.warmup_steps))


def _whole(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
