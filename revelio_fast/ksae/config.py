"""What a k-SAE training is told: `KSAEConfig`, each field checked with what is allowed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from revelio_fast.renamed import Renamed, renamed
from revelio_fast.settings import SEEDS, Settings, SettingsError, option


@renamed(holdout="val_fraction", semantics=Renamed("compat", {"official": "authors"}))
@dataclass(frozen=True)
class KSAEConfig(Settings):
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
        What computes a step. "fused": one optimiser pass over the latents (`ops.adam_unit_norm_step_`). "autograd":
        `torch.optim.Adam` on the differentiable ops. Both compute the same numbers up to rounding.
    compat : {"paper", "authors"}
        "paper" trains as the paper says, "authors" as the authors' code does. With "paper" decoder rows have unit norm
        after every update, and the initialisation is tied. With "authors" rows are normalised before every step and not
        after the last one, the schedule is one step ahead (first learning rate 2 / warmup_steps), `b_pre` is the mean
        of one batch, the initialisation is theirs, short last batches are used, and statistics of dense pre-activations
        appear in the columns ``official_l0`` and ``official_dead``.
    seed : int
        Seed of the initialisation, the validation rows and the shuffling, each with random numbers of its own.
    relu : bool
        Clamp selected pre-activations at zero. Neither the paper's Eq. 3 nor the authors' code does.
    precision : {"fast", "fp32", "bf16"}
        Numerical mode of `ops.topk_encode` during training.
    aux_k : int
        Dead latents that rebuild the residual in the AuxK loss (Gao et al. 2024); 0 switches it off.
    aux_coefficient : float
        Weight of the AuxK loss.
    dead_after : int, optional
        A latent is dead after this many rows without being active; default: twice the data, at least 10 batches and at
        most 10 million.
    val_fraction : float
        Share of the rows that is kept out of training to measure the held-out FVU, where no `validation` is given; at
        most 65,536 rows.
    log_every : int
        Steps between history rows.
    eval_every : int
        Steps between held-out evaluations.
    checkpoint_every : int
        Steps between checkpoints.
    data : {"auto", "memory", "disk"}
        Where the rows of a store are taken from. "disk" reads each batch while the step before runs; "auto" holds a
        store that takes at most a third of the free memory. The numbers are the same bits.
    """

    k: int = option(32, at_least=1)
    expansion_factor: int = option(64, at_least=1)
    n_latents: int | None = option(None, at_least=1)
    steps: int = option(10_240, at_least=1)
    batch_size: int = option(8192, at_least=1)
    lr: float = option(4e-4, above=0)
    warmup_steps: int = option(500, at_least=0)
    engine: Literal["fused", "autograd"] = "fused"
    compat: Literal["paper", "authors"] = "paper"
    seed: int = option(0, at_least=0, below=SEEDS)
    relu: bool = False
    precision: Literal["fast", "fp32", "bf16"] = "fast"
    aux_k: int = option(0, at_least=0)
    aux_coefficient: float = option(1 / 32, at_least=0)
    dead_after: int | None = option(None, at_least=1)
    val_fraction: float = option(0.05, at_least=0, below=1)
    log_every: int = option(20, at_least=1)
    eval_every: int = option(200, at_least=1)
    checkpoint_every: int = option(1000, at_least=1)
    data: Literal["auto", "memory", "disk"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_latents is not None and self.k > self.n_latents:
            raise SettingsError({"k": f"k must not exceed n_latents = {self.n_latents}, got {self.k}"})

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
        ahead = 1 if self.compat == "authors" else 0
        return self.lr * min(1.0, (step + ahead) / max(1, self.warmup_steps))
